"""Implement decoder and loss as published: every block of a position is computed."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from gcis_train.nets.network import GcisNet
from gcis_train.training.losses import prompt_loss
from gcis_train.training.objectives import Batch, rows_of, sample_gates


def published_sum(net: GcisNet, features: tuple[Tensor, ...], gates: Tensor) -> Tensor:
    """Decode as published: compute all blocks of a position and add them up, each times its weight.

    Args:
        net: Routed network.
        features: Feature maps that its encoder returns.
        gates: Router weights, (7, K) for K blocks per position.

    Returns:
        Logits, (B, 2, X, Y, Z).
    """
    x = features[-1]
    for index, position in enumerate(net.decoder.positions):
        x = position.merge(x, features[5 - index] if 1 <= index <= 5 else None)  # type: ignore[operator]
        blocks = position.blocks.values()  # type: ignore[operator]
        x = functools.reduce(torch.add, [gates[index, k] * block(x) for k, block in enumerate(blocks)])
    return x


def published_loss(net: GcisNet, batch: Batch, embeddings: dict[str, Tensor]) -> Tensor:
    """Return the loss of the published code: each (window, prompt) row is encoded and decoded separately.

    Args:
        net: Routed network.
        batch: Windows, masks and prompts.
        embeddings: Text embedding of each prompt, (text_dim,).
    """
    losses = []
    for index, (masks, prompts) in enumerate(zip(batch.masks, batch.prompts, strict=True)):
        generator = torch.Generator().manual_seed(batch.seeds[index])
        for mask, prompt in zip(masks, prompts, strict=True):
            gates = sample_gates(net.route(embeddings[prompt]), 1.0, generator)
            logits = published_sum(net, net.encoder(batch.images[index : index + 1]), gates)
            losses.append(prompt_loss(logits, mask[None]))
    return torch.stack(losses).mean()


def split_rows(batch: Batch) -> list[Batch]:
    """Return one batch per (window, prompt) row; each row draws its noise from the seed of its window."""
    return [
        Batch(
            names=(batch.names[row.window],),
            images=batch.images[row.window : row.window + 1],
            masks=(row.mask[None],),
            prompts=((row.prompt,),),
            seeds=(batch.seeds[row.window],),
        )
        for row in rows_of(batch)
    ]
