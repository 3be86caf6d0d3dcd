"""Implement MONAI's window-attention block with static shapes, at most eight masks and one operator per step.

Tokens have the shape (T, C) with T = batch * X * Y * Z in row-major order, so that every linear layer is one
Gemm. Windows have the shape (W, N, ...) with W = batch * windows and N tokens per window.
Constant tensors (position bias, masks) are computed by a few operators from small constants. Engines fold
them when they load the file, whose size therefore stays close to that of the weights.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gcis_export.graph.layout import WindowLayout, bias_index
from gcis_export.graph.windows import Plain, Rolled, split

MASKED = -100.0
"""Value that MONAI adds to the attention between tokens that are neighbours only because of the roll."""


class Masks(nn.Module):
    """Distinct additive attention masks of the shifted block of a stage: (patterns, 1, N, N)."""

    rows: Tensor
    columns: Tensor

    def __init__(self, layout: WindowLayout) -> None:
        super().__init__()
        regions = torch.from_numpy(layout.regions())
        self.register_buffer("rows", regions[:, None, :, None].contiguous(), persistent=False)
        self.register_buffer("columns", regions[:, None, None, :].contiguous(), persistent=False)

    def forward(self) -> Tensor:
        """Return 0 where two tokens belong to the same region of the volume, else -100."""
        return torch.where(torch.eq(self.rows, self.columns), 0.0, MASKED)


class PositionIndex(nn.Module):
    """Relative position index of MONAI (N, N), computed from two vectors."""

    rows: Tensor
    columns: Tensor

    def __init__(self, window: int, tokens: int) -> None:
        super().__init__()
        rows, columns = bias_index(window, tokens)
        self.register_buffer("rows", torch.from_numpy(rows)[:, None], persistent=False)
        self.register_buffer("columns", torch.from_numpy(columns)[None, :], persistent=False)

    def forward(self) -> Tensor:
        """Return the row of the bias table per pair of tokens: (N, N)."""
        return self.rows - self.columns


class WindowAttention(nn.Module):
    """Self-attention within windows with the weights of MONAI's `WindowAttention`, without the projection.

    Args:
        source: MONAI module; its weights are copied.
        layout: Windows of the stage.
        shifted: Whether the windows have masks; they are then ordered by mask.
        batch: Batch size.
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
            self.qkv.weight[:dim] *= source.scale  # fold the scale of the queries into the weights
            self.qkv.bias[:dim] *= source.scale

    def forward(self, x: Tensor, index: Tensor, masks: Tensor | None) -> Tensor:
        """Compute the attention within each window: (W * N, C) to (W, heads, N, C / heads).

        Args:
            x: Tokens, ordered by window.
            index: Rows of the bias table, (N, N).
            masks: Additive masks, (patterns, 1, N, N); None for an unshifted block.
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
    """Transformer block with the weights of MONAI's `SwinTransformerBlock`.

    Args:
        source: MONAI module; its weights are copied.
        layout: Windows of the stage.
        shifted: Whether the volume is rolled before it is divided into windows.
        batch: Batch size.
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
        """Map tokens (T, C) to tokens of the same shape; only shifted blocks use `masks`."""
        y = self.attention(self.windows.cut(self.norm1(x)), index, masks if self.shifted else None)
        x = x + self.proj(self.windows.join(y))
        out: Tensor = x + self.linear2(torch.nn.functional.gelu(self.linear1(self.norm2(x))))
        return out
