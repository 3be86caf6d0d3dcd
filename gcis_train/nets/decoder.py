"""The decoder: seven positions, each with shared layers and a choice of blocks.

One class serves the routed network (every block of every position) and the static one (only the
blocks that its pathways use); parameter names are the same, so a static state is a subset of a
routed one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from gcis_runtime.bundles.manifest import POSITIONS
from gcis_train.nets.blocks import BottleneckBlock, PlainBlock, UpMerge
from gcis_train.nets.gate import gate
from gcis_train.nets.pathway import Pathway


class Position(nn.Module):
    """One decoder position: an optional shared up-sampling, then one of several blocks.

    Args:
        up: Shared layers, or None at `decoder10` and `out`.
        blocks: Block for each index.
    """

    def __init__(self, up: UpMerge | None, blocks: dict[int, nn.Module]) -> None:
        super().__init__()
        self.up = up
        self.blocks = nn.ModuleDict({str(index): block for index, block in blocks.items()})

    def merge(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Return the input of this position's blocks."""
        return x if self.up is None or skip is None else self.up(x, skip)

    def choose(self, x: Tensor, choice: int, gates: Tensor | None) -> Tensor:
        """Return the chosen block's output; `gates` (B, K) carries the router's gradient."""
        block: nn.Module = self.blocks[str(choice)]
        y: Tensor = block(x)
        return y if gates is None else gate(y, x, gates, choice, list(self.blocks.values()))


class Decoder(nn.Module):
    """Features to logits along a pathway, or along several that share what they have in common.

    Args:
        feature_size: Channels of the first stage.
        used: Block indices that exist at each position.
        out_channels: Classes.
    """

    def __init__(self, *, feature_size: int, used: Sequence[Collection[int]], out_channels: int = 2) -> None:
        super().__init__()
        f = feature_size
        ups = (None, (16 * f, 8 * f), (8 * f, 4 * f), (4 * f, 2 * f), (2 * f, f), (f, f), None)
        positions: list[Position] = []
        for name, up, indices in zip(POSITIONS, ups, used, strict=True):
            merge = None if up is None else UpMerge(*up)
            positions.append(Position(merge, {i: _block(name, f, up, out_channels) for i in sorted(indices)}))
        self.positions = nn.ModuleList(positions)

    def forward(self, features: tuple[Tensor, ...], pathway: Pathway, gates: Tensor | None = None) -> Tensor:
        """Return logits (B, out_channels, X, Y, Z) of one pathway.

        Args:
            features: What the encoder returns.
            pathway: The block to use at each position.
            gates: (B, 7, K) hard one-hot router weights of each sample with gradients, or None without a
                router.
        """
        x = features[-1]
        for index, (position, choice) in enumerate(zip(self.positions, pathway.choices, strict=True)):
            x = position.merge(x, _skip(features, index))  # type: ignore[operator]
            x = position.choose(x, choice, None if gates is None else gates[:, index])  # type: ignore[operator]
        return x

    def branch(self, features: tuple[Tensor, ...], pathways: Sequence[Pathway]) -> list[Tensor]:
        """Return the logits of several pathways; every common prefix is computed once."""
        states: dict[tuple[int, ...], Tensor] = {(): features[-1]}
        for index, position in enumerate(self.positions):
            merged: dict[tuple[int, ...], Tensor] = {}
            following: dict[tuple[int, ...], Tensor] = {}
            for pathway in pathways:
                prefix, path = pathway.choices[:index], pathway.choices[: index + 1]
                if prefix not in merged:
                    merged[prefix] = position.merge(states[prefix], _skip(features, index))  # type: ignore[operator]
                if path not in following:
                    following[path] = position.choose(merged[prefix], path[-1], None)  # type: ignore[operator]
            states = following
        return [states[pathway.choices] for pathway in pathways]


def _block(name: str, f: int, up: tuple[int, int] | None, out_channels: int) -> nn.Module:
    if name == "out":
        return nn.Conv3d(f, out_channels, 1)
    if up is None:
        return BottleneckBlock(16 * f)
    channels = up[1]
    return BottleneckBlock(channels) if channels >= 4 * f else PlainBlock(channels, channels)


def _skip(features: tuple[Tensor, ...], index: int) -> Tensor | None:
    """Return the encoder map that position `index` merges: none at the first and the last."""
    return features[5 - index] if 1 <= index <= 5 else None


def foreground_logit(logits: Tensor) -> Tensor:
    """Foreground minus background: (B, 2, X, Y, Z) -> (B, 1, X, Y, Z)."""
    return torch.sub(logits[:, 1:2], logits[:, 0:1])
