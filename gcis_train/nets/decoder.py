"""Define the decoder: seven positions, each with optional shared layers and several alternative blocks.

The routed network (all blocks at every position) and the static network (only the blocks that its pathways
use) share this class. Parameter names are the same, so the state of a static network is a subset of that of a
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
    """Decoder position: optional shared up-sampling, followed by one of several blocks.

    Args:
        up: Shared layers, or None at `decoder10` and `out`.
        blocks: Blocks by index.
    """

    def __init__(self, up: UpMerge | None, blocks: dict[int, nn.Module]) -> None:
        super().__init__()
        self.up = up
        self.blocks = nn.ModuleDict({str(index): block for index, block in blocks.items()})

    def merge(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Return the input of the blocks; `skip` is the encoder feature map to merge."""
        return x if self.up is None or skip is None else self.up(x, skip)

    def choose(self, x: Tensor, choice: int, gates: Tensor | None) -> Tensor:
        """Return the output of block `choice`; `gates` (B, K) receives the gradient of the router."""
        block: nn.Module = self.blocks[str(choice)]
        y: Tensor = block(x)
        return y if gates is None else gate(y, x, gates, choice, list(self.blocks.values()))


class Decoder(nn.Module):
    """Compute logits from encoder features along one or several pathways.

    Args:
        feature_size: Channels of the first stage.
        used: Block indices that exist at each position.
        out_channels: Number of classes.
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
        """Return the logits (B, out_channels, X, Y, Z) of one pathway.

        Args:
            features: Six feature maps of the encoder.
            pathway: Block to use at each position.
            gates: (B, 7, K) hard one-hot router weights per sample with gradients, or None without a router.
        """
        x = features[-1]
        for index, (position, choice) in enumerate(zip(self.positions, pathway.choices, strict=True)):
            x = position.merge(x, _skip(features, index))  # type: ignore[operator]
            x = position.choose(x, choice, None if gates is None else gates[:, index])  # type: ignore[operator]
        return x

    def branch(self, features: tuple[Tensor, ...], pathways: Sequence[Pathway]) -> list[Tensor]:
        """Return the logits (B, out_channels, X, Y, Z) of each pathway; common prefixes are computed once."""
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
    """Return the encoder feature map that position `index` merges: None at the first and the last."""
    return features[5 - index] if 1 <= index <= 5 else None


def foreground_logit(logits: Tensor) -> Tensor:
    """Return foreground minus background logits: (B, 2, X, Y, Z) to (B, 1, X, Y, Z)."""
    return torch.sub(logits[:, 1:2], logits[:, 0:1])
