"""One way of running a routed training step, measured in a process of its own.

`python -m benchmarks.routing_step '{"way": "published", …}'` prints the measurement as JSON: a process of
its own, since the peak of a process's memory never falls again.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from gcis_runtime.system.memory import peak_memory_bytes
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet
from gcis_train.training.allocator import keep_freed_memory
from gcis_train.training.losses import prompt_loss, value
from gcis_train.training.objectives import Batch, RoutedObjective, rows_of, sample_gates

Way = Literal["published", "ours", "rows apart"]


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to measure.

    Attributes:
        way: `"published"`, all blocks of a position times their hard weights under autograd;
            `"ours"`, as `gcis-train pretrain` does it; `"rows apart"`, ours without sharing: every
            (window, prompt) row encoded and decoded alone, all under one loss.
        feature_size: Channels of the first stage.
        roi: Window side, voxels.
        windows: Windows of the step.
        prompts: Prompts of each window.
        one_pathway: Make every row sample the same pathway.
        pathways: Blocks at each position.
        warmup: Steps before the timed ones.
        repeats: Timed steps; 0 with no warm-up measures the activations of one forward pass, and of its
            encoder's part, nothing else.
        threads: Threads of PyTorch.
        checkpoint: Recompute the transformer's activations (the published option).
        keep_memory: Keep freed memory, as a training does: faster, but the peak then holds what is free.
    """

    way: Way
    feature_size: int
    roi: int
    windows: int = 1
    prompts: int = 1
    one_pathway: bool = False
    pathways: int = 6
    warmup: int = 1
    repeats: int = 2
    threads: int = 1
    checkpoint: bool = False
    keep_memory: bool = False


def published_sum(net: GcisNet, features: tuple[Tensor, ...], gates: Tensor) -> Tensor:
    """Decode as published: all blocks of a position computed, each times its weight, added up.

    Args:
        net: The routed network.
        features: What its encoder returns.
        gates: (7, K) router weights.

    Returns:
        Logits (B, 2, X, Y, Z).
    """
    x = features[-1]
    for index, position in enumerate(net.decoder.positions):
        x = position.merge(x, features[5 - index] if 1 <= index <= 5 else None)  # type: ignore[operator]
        blocks = position.blocks.values()  # type: ignore[operator]
        x = functools.reduce(torch.add, [gates[index, k] * block(x) for k, block in enumerate(blocks)])
    return x


def measure(step: Step) -> dict[str, Any]:
    """Run the step several times; returns seconds, memory and the first loss, ready for JSON.

    `cpu_seconds` are those that the process had a processor for, which other work on the machine disturbs
    least. `activation_mb` is what the forward pass keeps for the backward pass; `peak_mb` what the
    process's memory grew by beyond network, optimiser state and input.
    """
    torch.set_num_threads(step.threads)
    if step.keep_memory:
        keep_freed_memory()
    torch.manual_seed(0)
    config = NetworkConfig(feature_size=step.feature_size, pathways=step.pathways)
    net = GcisNet(config, checkpoint=step.checkpoint).train()
    loss = _loss_of(step, net)
    if step.warmup + step.repeats == 0:
        kept: dict[int, int] = {}
        with _keeping(kept, net):
            first = loss(0)
        encoder: dict[int, int] = {}
        with _keeping(encoder, net):
            features = net.encoder(torch.rand(step.windows, 1, *(step.roi,) * 3))
        parts = {"activation_mb": _mb(sum(kept.values())), "encoder_mb": _mb(sum(encoder.values()))}
        del features
        return {**parts, "first_loss": float(first.detach())}
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=1e-5)
    _make_moments(net, optimizer)
    return _timed(step, net, optimizer, loss)


def _timed(
    step: Step,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], Tensor],
) -> dict[str, Any]:
    before = peak_memory_bytes() or 0
    kept: dict[int, int] = {}
    seconds, cpu_seconds, losses = [], [], []
    for number in range(step.warmup + step.repeats):
        started, cpu_started = time.perf_counter(), time.process_time()
        with _keeping(kept if number == 0 else {}, net):
            result = loss(number)
        optimizer.zero_grad(set_to_none=True)
        result.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if number >= step.warmup:
            seconds.append(round(time.perf_counter() - started, 3))
            cpu_seconds.append(round(time.process_time() - cpu_started, 3))
        losses.append(float(result.detach()))
        del result  # and with it what it kept
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "activation_mb": _mb(sum(kept.values())),
        "peak_mb": _mb((peak_memory_bytes() or 0) - before),
        "process_mb": _mb(peak_memory_bytes() or 0),
        "first_loss": losses[0],
    }


def _mb(size: int) -> float:
    return round(size / 1e6, 1)


def _make_moments(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let the optimiser create its state for every parameter, so that no way pays for it later."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _loss_of(step: Step, net: GcisNet) -> Callable[[int], Tensor]:
    """Return what gives the loss of a step of that number; its noise follows from the number."""
    generator = torch.Generator().manual_seed(1)
    shape = (step.roi,) * 3
    names = tuple(f"prompt {i}" for i in range(step.prompts))
    embeddings = torch.randn(step.prompts, net.config.text_dim, generator=generator)
    if step.one_pathway:
        _force_one_pathway(net)
    still = Batch(
        names=tuple(f"window {i}" for i in range(step.windows)),
        images=torch.rand((step.windows, 1, *shape), generator=generator),
        masks=tuple(
            (torch.rand((step.prompts, *shape), generator=generator) > 0.9).to(torch.float32)
            for _ in range(step.windows)
        ),
        prompts=(names,) * step.windows,
        seeds=(0,) * step.windows,
    )
    objective = RoutedObjective(net, names, embeddings, tau=1.0)
    table = dict(zip(names, embeddings, strict=True))

    def loss(number: int) -> Tensor:
        seeds = tuple(1000 * number + index for index in range(step.windows))
        batch = dataclasses.replace(still, seeds=seeds)
        if step.way == "ours":
            return value(objective.loss(batch, done=0.0))
        if step.way == "rows apart":
            rows = rows_apart(batch)
            return torch.stack([value(objective.loss(row, done=0.0)) for row in rows]).mean()
        return published_loss(net, batch, table)

    return loss


def published_loss(net: GcisNet, batch: Batch, embeddings: dict[str, Tensor]) -> Tensor:
    """Return the loss as the published code takes it: every row encoded and decoded alone."""
    losses = []
    for index, (masks, prompts) in enumerate(zip(batch.masks, batch.prompts, strict=True)):
        generator = torch.Generator().manual_seed(batch.seeds[index])
        for mask, prompt in zip(masks, prompts, strict=True):
            gates = sample_gates(net.route(embeddings[prompt]), 1.0, generator)
            logits = published_sum(net, net.encoder(batch.images[index : index + 1]), gates)
            losses.append(prompt_loss(logits, mask[None]))
    return torch.stack(losses).mean()


def rows_apart(batch: Batch) -> list[Batch]:
    """Return one batch a (window, prompt) row; each draws from its window's seed afresh."""
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


def _force_one_pathway(net: GcisNet) -> None:
    """Give one block of every position a router lead that no noise overcomes."""
    with torch.no_grad():
        for router in net.routers:
            router.weight.zero_()  # type: ignore[operator]
            router.bias.copy_(torch.tensor([60.0] + [0.0] * (net.config.pathways - 1)))  # type: ignore[operator]


def _keeping(sizes: dict[int, int], net: nn.Module) -> torch.autograd.graph.saved_tensors_hooks:
    """Note the size of every storage that is saved for the backward pass, parameters apart."""
    parameters = {p.untyped_storage().data_ptr() for p in net.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(measure(msgspec.json.decode(sys.argv[1], type=Step))).decode())
