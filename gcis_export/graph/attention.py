"""A window-attention block for export: static shapes, eight masks at most, one operator for each step.

Tokens are (T, C), T = batch * X * Y * Z row-major, so that every linear layer is one Gemm. Windows are
(W, N, ...), W = batch * windows.
What only depends on constants (position bias, masks) is written as a few operators on small constants:
engines fold them when they load the file, and the file stays as small as its weights.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gcis_export.graph.layout import WindowLayout, bias_index
from gcis_export.graph.windows import Plain, Rolled, split

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
    """Self-attention within windows, with the weights of MONAI's `WindowAttention`, up to its projection.

    Args:
        source: MONAI's module.
        layout: The stage's windows.
        shifted: Whether windows carry masks; they are then ordered by mask.
        batch: Samples.
    """

    table: Tensor

    def __init__(self, source: Any, layout: WindowLayout, *, shifted: bool, batch: int) -> None:
        super().__init__()
        self.heads: int = source.num_heads
        self.windows, self.tokens = batch * layout.windows, layout.tokens
        groups = layout.groups() if shifted else [list(range(layout.windows))]
        self.sizes = [batch * len(group) for group in groups]
        dim = source.qkv.in_features
        self.head_size = dim // self.heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.register_buffer("table", source.relative_position_bias_table.detach().t().contiguous().clone())
        with torch.no_grad():
            self.qkv.weight.copy_(source.qkv.weight)
            self.qkv.bias.copy_(source.qkv.bias)
            self.qkv.weight[:dim] *= source.scale  # the scale of the queries, once and for all
            self.qkv.bias[:dim] *= source.scale

    def forward(self, x: Tensor, index: Tensor, masks: Tensor | None) -> Tensor:
        """Attend within each window: (W * N, C) to (W, heads, N, C / heads).

        Args:
            x: Tokens, window after window.
            index: (N, N) rows of the bias table.
            masks: (patterns, 1, N, N), or None without a shift.
        """
        qkv = self.qkv(x).reshape(self.windows, self.tokens, 3 * self.heads, self.head_size)
        q, k, v = split(qkv.transpose(1, 2), [self.heads] * 3, 1)
        k = k.transpose(2, 3)
        bias = self.table.index_select(1, index.reshape(-1)).reshape(self.heads, self.tokens, self.tokens)
        if masks is not None:
            bias = bias + masks  # (patterns, heads, N, N)
        if len(self.sizes) == 1 or self.windows == len(self.sizes):
            return torch.matmul(torch.softmax(torch.matmul(q, k) + bias, dim=-1), v)
        groups = [split(tensor, self.sizes, 0) for tensor in (q, k, v)]
        biases = split(bias, [1] * len(self.sizes), 0)
        parts = [
            torch.matmul(torch.softmax(torch.matmul(a, b) + c, dim=-1), d)
            for a, b, d, c in zip(*groups, biases, strict=True)
        ]
        return torch.cat(parts)


class Block(nn.Module):
    """One transformer block, with the weights of MONAI's `SwinTransformerBlock`.

    Args:
        source: MONAI's module.
        layout: The stage's windows.
        shifted: Whether the volume is rolled first.
        batch: Samples.
    """

    def __init__(self, source: Any, layout: WindowLayout, *, shifted: bool, batch: int) -> None:
        super().__init__()
        self.shifted = shifted and layout.shifted
        self.windows = Rolled(layout, batch) if self.shifted else Plain(layout, batch)
        self.norm1, self.norm2 = copy.deepcopy(source.norm1), copy.deepcopy(source.norm2)
        self.attention = WindowAttention(source.attn, layout, shifted=self.shifted, batch=batch)
        self.proj = copy.deepcopy(source.attn.proj)
        self.linear1, self.linear2 = copy.deepcopy(source.mlp.linear1), copy.deepcopy(source.mlp.linear2)

    def forward(self, x: Tensor, index: Tensor, masks: Tensor | None) -> Tensor:
        """Map tokens (T, C) to the same shape; `masks` are used by a shifted block alone."""
        y = self.attention(self.windows.cut(self.norm1(x)), index, masks if self.shifted else None)
        x = x + self.proj(self.windows.join(y))
        out: Tensor = x + self.linear2(torch.nn.functional.gelu(self.linear1(self.norm2(x))))
        return out
