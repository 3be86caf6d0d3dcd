"""Implement MONAI's Swin transformer for one window size with static shapes and the same results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gcis_export.graph.attention import Block, Masks, PositionIndex
from gcis_export.graph.layout import WindowLayout
from gcis_runtime.spec import Shape3
from gcis_train.nets.encoder import PATCH, WINDOW
from gcis_train.nets.patch_merging import NEIGHBOURS, PatchMerging


class Merging(nn.Module):
    """Merge eight neighbouring tokens into one with twice the channels, as `PatchMerging` of the network.

    The order of eight distinct neighbours is folded into the weights, so that merging is one reshape and one
    transpose. If neighbours repeat (`"v0.9"`), tokens are gathered, as the norm counts repeated ones twice.

    Args:
        source: Module of the network; its weights are copied.
        dims: Tokens along (X, Y, Z), all even.
        batch: Batch size.
    """

    def __init__(self, source: PatchMerging, dims: Shape3, batch: int) -> None:
        super().__init__()
        self.dims, self.batch = dims, batch
        width = source.reduction.in_features // 8
        order = [4 * i + 2 * j + k for i, j, k in NEIGHBOURS[source.merging]]
        self.folded = sorted(order) == list(range(8))
        self.order = order
        self.norm = nn.LayerNorm(8 * width, eps=source.norm.eps)
        self.reduction = nn.Linear(8 * width, source.reduction.out_features, bias=False)
        place = torch.arange(8 * width)
        if self.folded:
            place = torch.cat([torch.arange(width) + order.index(n) * width for n in range(8)])
        with torch.no_grad():
            self.norm.weight.copy_(source.norm.weight[place])
            self.norm.bias.copy_(source.norm.bias[place])
            self.reduction.weight.copy_(source.reduction.weight[:, place])

    def forward(self, x: Tensor) -> Tensor:
        """Map (T, C) to (T / 8, 2 C)."""
        (a, b, c), width = self.dims, x.shape[1]
        x = x.reshape(self.batch * a // 2, 2, b // 2, 2, c // 2, 2, width).permute(0, 2, 4, 1, 3, 5, 6)
        if not self.folded:
            x = x.reshape(-1, 8, width).index_select(1, torch.tensor(self.order))
        out: Tensor = self.reduction(self.norm(x.reshape(-1, 8 * width)))
        return out


class Stage(nn.Module):
    """Transformer blocks of one resolution followed by merging, as MONAI's `BasicLayer`.

    Args:
        source: MONAI module; its weights are copied.
        dims: Tokens along (X, Y, Z).
        batch: Batch size.
    """

    def __init__(self, source: Any, dims: Shape3, batch: int) -> None:
        super().__init__()
        layout = WindowLayout.of(dims, (WINDOW,) * 3)
        self.layout = layout
        self.blocks = nn.ModuleList(
            Block(block, layout, shifted=any(block.shift_size), batch=batch) for block in source.blocks
        )
        self.merging = Merging(source.downsample, dims, batch)

    def forward(self, x: Tensor, index: Tensor, masks: Tensor | None) -> Tensor:
        """Map tokens (T, C) to (T / 8, 2 C)."""
        for block in self.blocks:
            x = block(x, index, masks)
        out: Tensor = self.merging(x)
        return out


class Swin(nn.Module):
    """Swin transformer, which maps an image to five normalised feature maps.

    Args:
        source: `SwinTransformer` of MONAI; its weights are copied.
        patch_size: Image size in voxels (X, Y, Z).
        batch: Batch size.
    """

    def __init__(self, source: Any, patch_size: Shape3, batch: int = 1) -> None:
        super().__init__()
        self.batch = batch
        embed = source.patch_embed.proj
        self.embed = nn.Conv3d(embed.in_channels, embed.out_channels, PATCH, stride=PATCH)
        self.embed.load_state_dict(embed.state_dict())
        layers = (source.layers1, source.layers2, source.layers3, source.layers4)
        sizes = [tuple(r // (PATCH << level) for r in patch_size) for level in range(5)]
        self.sizes: list[Shape3] = [(x, y, z) for x, y, z in sizes]
        self.stages = nn.ModuleList(
            Stage(layer[0], size, batch) for layer, size in zip(layers, self.sizes, strict=False)
        )
        self.indices = nn.ModuleDict()
        self.masks = nn.ModuleDict()
        for stage in self.stages:
            layout: WindowLayout = stage.layout  # type: ignore[assignment]
            if str(layout.tokens) not in self.indices:
                self.indices[str(layout.tokens)] = PositionIndex(WINDOW, layout.tokens)
            if layout.shifted and _key(layout) not in self.masks:
                self.masks[_key(layout)] = Masks(layout)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (B, 1, X, Y, Z) to maps of f, 2f, 4f, 8f and 16f channels at 1/2 to 1/32 of the image size."""
        indices = {name: module() for name, module in self.indices.items()}
        masks = {name: module() for name, module in self.masks.items()}
        x = _to_tokens(self.embed(image))
        maps = [_to_map(x, self.batch, self.sizes[0])]
        for stage, size in zip(self.stages, self.sizes[1:], strict=True):
            layout: WindowLayout = stage.layout  # type: ignore[assignment]
            x = stage(x, indices[str(layout.tokens)], masks.get(_key(layout)))
            maps.append(_to_map(x, self.batch, size))
        return maps


def _to_tokens(x: Tensor) -> Tensor:
    """Return a feature map (B, C, X, Y, Z) as tokens (T, C)."""
    batch, channels = x.shape[:2]
    if batch == 1:
        return x.reshape(channels, -1).t()
    return x.reshape(batch, channels, -1).transpose(1, 2).reshape(-1, channels)


def _to_map(x: Tensor, batch: int, size: Shape3) -> Tensor:
    """Normalise tokens (T, C) over the channels and return the feature map (B, C, X, Y, Z)."""
    channels = x.shape[1]
    y = torch.nn.functional.layer_norm(x, (channels,))
    y = y.t() if batch == 1 else y.reshape(batch, -1, channels).transpose(1, 2)
    return y.reshape(batch, channels, *size)


def _key(layout: WindowLayout) -> str:
    """Return the key of the masks, which stages of the same window and shift share."""
    return "_".join(map(str, layout.window + layout.shift))
