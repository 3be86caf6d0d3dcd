"""A window-attention block for export: static shapes, eight masks at most, one operator for each step.

Tokens are (T, C), T = X * Y * Z row-major, so that every linear layer is one Gemm. Windows are (W, N, ...).
What only depends on constants (position bias, masks) is written as a few operators on small constants:
engines fold them when they load the file, and the file stays as small as its weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gcis_export.graph.layout import WindowLayout, bias_index

MASKED = -100.0
"""What MONAI adds to the attention between tokens that the roll made neighbours."""


class Masks(nn.Module):
    """The distinct additive masks of a stage's shifted block: (patterns, 1, N, N)."""

    rows: Tensor
    columns: Tensor

    def __init__(self, layout: WindowLayout) -> None:
        super().__init__()
        regions = torch.from_numpy(layout.regions())
        self.register_buffer("rows", regions[:, None, :, None].contiguous(), persistent=False)
        self.register_buffer("columns", regions[:, None, None, :].contiguous(), persistent=False)

    def forward(self) -> Tensor:
        """Return 0 where two tokens lie on the same side of the cuts, else -100."""
        return torch.where(torch.eq(self.rows, self.columns), 0.0, MASKED)


class PositionIndex(nn.Module):
    """MONAI's relative position index (N, N), from two vectors."""

    rows: Tensor
    columns: Tensor

    def __init__(self, window: int, tokens: int) -> None:
        super().__init__()
        rows, columns = bias_index(window, tokens)
        self.register_buffer("rows", torch.from_numpy(rows)[:, None], persistent=False)
        self.register_buffer("columns", torch.from_numpy(columns)[None, :], persistent=False)

    def forward(self) -> Tensor:
        """Return the row of the bias table for each pair of tokens."""
        return self.rows - self.columns


class WindowAttention(nn.Module):
    """Self-attention within windows, with the weights of MONAI's `WindowAttention`.

    Args:
        source: MONAI's module.
        layout: The stage's windows.
        shifted: Whether windows carry masks; they are then ordered by mask.
    """

    table: Tensor

    def __init__(self, source: Any, layout: WindowLayout, *, shifted: bool) -> None:
        super().__init__()
        self.heads: int = source.num_heads
        self.windows, self.tokens = layout.windows, layout.tokens
        self.sizes = [len(group) for group in layout.groups()] if shifted else [layout.windows]
        dim = source.qkv.in_features
        self.head_size = dim // self.heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("table", source.relative_position_bias_table.detach().t().contiguous().clone())
        with torch.no_grad():
            self.qkv.weight.copy_(source.qkv.weight)
            self.qkv.bias.copy_(source.qkv.bias)
            self.qkv.weight[:dim] *= source.scale  # the scale of the queries, once and for all
            self.qkv.bias[:dim] *= source.scale
            self.proj.weight.copy_(source.proj.weight)
            self.proj.bias.copy_(source.proj.bias)

    def forward(self, x: Tensor, index: Tensor, masks: Tensor | None) -> Tensor:
        """Map (W * N, C) to the same shape.

        Args:
            x: Tokens, window after window.
            index: (N, N) rows of the bias table.
            masks: (patterns, 1, N, N), or None without a shift.
        """
        qkv = self.qkv(x).reshape(self.windows, self.tokens, 3 * self.heads, self.head_size)
        q, k, v = _split(qkv.transpose(1, 2), [self.heads] * 3, 1)
        k = k.transpose(2, 3)
        bias = self.table.index_select(1, index.reshape(-1)).reshape(self.heads, self.tokens, self.tokens)
        if masks is not None:
            bias = bias + masks  # (patterns, heads, N, N)
        if len(self.sizes) == 1 or self.windows == len(self.sizes):
            y = torch.matmul(torch.softmax(torch.matmul(q, k) + bias, dim=-1), v)
        else:
            groups = [_split(tensor, self.sizes, 0) for tensor in (q, k, v)]
            biases = _split(bias, [1] * len(self.sizes), 0)
            parts = [
                torch.matmul(torch.softmax(torch.matmul(a, b) + c, dim=-1), d)
                for a, b, d, c in zip(*groups, biases, strict=True)
            ]
            y = torch.cat(parts)
        y = y.transpose(1, 2).reshape(self.windows * self.tokens, self.heads * self.head_size)
        out: Tensor = self.proj(y)
        return out


class Block(nn.Module):
    """One transformer block, with the weights of MONAI's `SwinTransformerBlock`.

    Args:
        source: MONAI's module.
        layout: The stage's windows.
        shifted: Whether the volume is rolled first.
    """

    def __init__(self, source: Any, layout: WindowLayout, *, shifted: bool) -> None:
        super().__init__()
        self.layout = layout
        self.shift = layout.shift if shifted else (0, 0, 0)
        shifted = any(self.shift)
        groups = layout.groups() if shifted else [list(range(layout.windows))]
        order = torch.tensor([window for group in groups for window in group])
        self.sorted = not torch.equal(order, torch.arange(layout.windows))
        if self.sorted:
            self.register_buffer("order", order, persistent=False)
            self.register_buffer("back", torch.argsort(order), persistent=False)
        self.norm1, self.norm2 = _copy_norm(source.norm1), _copy_norm(source.norm2)
        self.attention = WindowAttention(source.attn, layout, shifted=shifted)
        self.linear1 = _copy_linear(source.mlp.linear1)
        self.linear2 = _copy_linear(source.mlp.linear2)

    def forward(self, x: Tensor, index: Tensor, masks: Tensor | None) -> Tensor:
        """Map tokens (T, C) to the same shape; `masks` are used by a shifted block alone."""
        y = self.attention(self._partition(self.norm1(x)), index, masks if any(self.shift) else None)
        x = x + self._merge(y)
        out: Tensor = x + self.linear2(torch.nn.functional.gelu(self.linear1(self.norm2(x))))
        return out

    def _partition(self, x: Tensor) -> Tensor:
        """Pad, roll and cut into windows: (T, C) -> (W * N, C)."""
        at, channels = self.layout, x.shape[1]
        if any(at.pad) or any(self.shift):
            x = x.reshape(*at.dims, channels)
        if any(at.pad):
            x = torch.nn.functional.pad(x, (0, 0, 0, at.pad[2], 0, at.pad[1], 0, at.pad[0]))
        for axis, shift in enumerate(self.shift):
            if shift:
                head, tail = _split(x, [shift, x.shape[axis] - shift], axis)
                x = torch.cat((tail, head), dim=axis)
        if at.windows > 1:
            (a, b, c), (i, j, k) = at.counts, at.window
            x = x.reshape(a, i, b, j, c, k, channels).permute(0, 2, 4, 1, 3, 5, 6)
        if self.sorted:
            x = x.reshape(at.windows, at.tokens * channels).index_select(0, self.order)  # type: ignore[arg-type]
        return x.reshape(at.windows * at.tokens, channels)

    def _merge(self, x: Tensor) -> Tensor:
        """Undo `_partition`; padding is dropped while rolling back."""
        at, channels = self.layout, x.shape[1]
        if self.sorted:
            x = x.reshape(at.windows, at.tokens * channels).index_select(0, self.back)  # type: ignore[arg-type]
        (a, b, c), (i, j, k) = at.counts, at.window
        if at.windows > 1:
            x = x.reshape(a, b, c, i, j, k, channels).permute(0, 3, 1, 4, 2, 5, 6)
            x = x.reshape(a * i, b * j, c * k, channels)
        for axis, (shift, pad) in enumerate(zip(self.shift, at.pad, strict=True)):
            if shift:
                size = at.dims[axis] - shift
                parts = _split(x, [size, pad, shift] if pad else [size, shift], axis)
                x = torch.cat((parts[-1], parts[0]), dim=axis)
        if any(at.pad) and not any(self.shift):
            x = x[: at.dims[0], : at.dims[1], : at.dims[2]]
        return x.reshape(at.dims[0] * at.dims[1] * at.dims[2], channels)


def _split(x: Tensor, sizes: list[int], axis: int) -> tuple[Tensor, ...]:
    """Cut a tensor along an axis; one operator."""
    parts: tuple[Tensor, ...] = torch.split_with_sizes(x, sizes, axis)
    return parts


def _copy_norm(source: nn.LayerNorm) -> nn.LayerNorm:
    norm = nn.LayerNorm(source.normalized_shape, eps=source.eps)
    norm.load_state_dict(source.state_dict())
    return norm


def _copy_linear(source: nn.Linear) -> nn.Linear:
    linear = nn.Linear(source.in_features, source.out_features, bias=source.bias is not None)
    linear.load_state_dict(source.state_dict())
    return linear
