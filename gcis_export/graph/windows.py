"""Partition tokens into windows and invert the partition, in shifted blocks with one Gather each.

Padding, roll (one Slice and one Concat per axis), partition and ordering by mask are permutations of rows
that depend on the shape only. One Gather with a constant index copies the tokens of a shifted block once
instead of nine times; docs/decisions/0022-graph.md has the measurements.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gcis_export.graph.layout import WindowLayout


class Plain(nn.Module):
    """Windows of an unshifted block.

    Args:
        layout: Windows of the stage.
        batch: Batch size.
    """

    def __init__(self, layout: WindowLayout, batch: int) -> None:
        super().__init__()
        self.layout, self.batch = layout, batch

    def cut(self, x: Tensor) -> Tensor:
        """Pad and partition tokens into windows: (T, C) to (W * N, C)."""
        at, channels = self.layout, x.shape[1]
        if at.windows == 1:
            return x
        if any(at.pad):
            x = x.reshape(self.batch, *at.dims, channels)
            x = torch.nn.functional.pad(x, (0, 0, 0, at.pad[2], 0, at.pad[1], 0, at.pad[0]))
        (a, b, c), (i, j, k) = at.counts, at.window
        x = x.reshape(self.batch * a, i, b, j, c, k, channels).permute(0, 2, 4, 1, 3, 5, 6)
        return x.reshape(-1, channels)

    def join(self, y: Tensor) -> Tensor:
        """Invert `cut` and concatenate the heads: (W, heads, N, C / heads) to (T, C)."""
        at, heads, size = self.layout, y.shape[1], y.shape[3]
        if at.windows == 1:
            return y.transpose(1, 2).reshape(-1, heads * size)
        (a, b, c), (i, j, k) = at.counts, at.window
        y = y.reshape(self.batch * a, b, c, heads, i, j, k, size).permute(0, 4, 1, 5, 2, 6, 3, 7)
        if any(at.pad):
            y = y.reshape(self.batch, a * i, b * j, c * k, heads * size)
            y = y[:, : at.dims[0], : at.dims[1], : at.dims[2]]
        return y.reshape(-1, heads * size)


class Rolled(nn.Module):
    """Windows of a shifted block, ordered by mask.

    Args:
        layout: Windows of the stage.
        batch: Batch size.
    """

    places: Tensor
    back: Tensor

    def __init__(self, layout: WindowLayout, batch: int) -> None:
        super().__init__()
        self.padded = any(layout.pad)
        self.tokens = layout.tokens
        self.register_buffer("places", torch.from_numpy(layout.rolled(batch)).flatten(), persistent=False)
        self.register_buffer("back", torch.from_numpy(layout.unrolled(batch)), persistent=False)

    def cut(self, x: Tensor) -> Tensor:
        """Pad, roll and partition tokens into windows: (T, C) to (W * N, C)."""
        if self.padded:
            x = torch.nn.functional.pad(x, (0, 0, 0, 1))  # the zero token that the index refers to
        return x.index_select(0, self.places)

    def join(self, y: Tensor) -> Tensor:
        """Invert `cut` and concatenate the heads: (W, heads, N, C / heads) to (T, C)."""
        return y.transpose(1, 2).reshape(-1, y.shape[1] * y.shape[3]).index_select(0, self.back)


def split(x: Tensor, sizes: list[int], axis: int) -> tuple[Tensor, ...]:
    """Split a tensor along an axis with one operator."""
    parts: tuple[Tensor, ...] = torch.split_with_sizes(x, sizes, axis)
    return parts
