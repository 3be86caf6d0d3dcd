"""A Swin transformer with the parameter names and the numbers of MONAI's, for machines without MONAI.

Maps are (B, X, Y, Z, C) inside, (B, C, X, Y, Z) outside. A test holds it equal to MONAI's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

_NEIGHBOURS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
"""The order in which eight neighbours become one token."""

_MASKED = -100.0


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, window: Sequence[int]) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (dim // heads) ** -0.5
        spans = [2 * w - 1 for w in window]
        self.relative_position_bias_table = nn.Parameter(torch.zeros(spans[0] * spans[1] * spans[2], heads))
        places = torch.tensor(list(itertools.product(*(range(w) for w in window))))
        apart = places[:, None] - places[None] + torch.tensor(window) - 1
        index = (apart * torch.tensor([spans[1] * spans[2], spans[2], 1])).sum(-1)
        self.register_buffer("relative_position_index", index)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows (W, N, C); `mask` (patterns, N, N) repeats over the samples."""
        windows, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(windows, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = (qkv[0] * self.scale) @ qkv[1].transpose(-2, -1)
        index: Tensor = self.relative_position_index  # type: ignore[assignment]
        bias = self.relative_position_bias_table[index[:tokens, :tokens].reshape(-1)]
        scores = scores + bias.reshape(tokens, tokens, -1).permute(2, 0, 1)
        if mask is not None:
            count = mask.shape[0]
            scores = scores.reshape(-1, count, *scores.shape[1:]) + mask[None, :, None]
            scores = scores.reshape(windows, *scores.shape[2:])
        y = scores.softmax(-1).to(qkv.dtype) @ qkv[2]
        out: Tensor = self.proj(y.transpose(1, 2).reshape(windows, tokens, dim))
        return out


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(functional.gelu(self.linear1(x)))
        return out


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, window: Sequence[int], shift: Sequence[int]) -> None:
        super().__init__()
        self.window_size, self.shift_size = tuple(window), tuple(shift)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = _Attention(dim, heads, window)
        self.mlp = _Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, X, Y, Z, C) to the same shape."""
        size = x.shape[1:4]
        window = tuple(min(w, n) for w, n in zip(self.window_size, size, strict=True))
        shift = tuple(
            0 if n <= w else s for s, w, n in zip(self.shift_size, self.window_size, size, strict=True)
        )
        pad = [-n % w for n, w in zip(size, window, strict=True)]
        y = functional.pad(self.norm1(x), (0, 0, 0, pad[2], 0, pad[1], 0, pad[0]))
        padded = y.shape
        mask = None
        if any(shift):
            y = torch.roll(y, [-s for s in shift], dims=(1, 2, 3))
            mask = _mask(tuple(padded[1:4]), window, shift, x.device)
        y = _join(self.attn(_cut(y, window), mask), window, padded)
        if any(shift):
            y = torch.roll(y, list(shift), dims=(1, 2, 3))
        x = x + y[:, : size[0], : size[1], : size[2]]
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def _cut(x: Tensor, window: Sequence[int]) -> Tensor:
    """Cut (B, X, Y, Z, C) into windows (W, N, C)."""
    b, *size, c = x.shape
    parts = [p for n, w in zip(size, window, strict=True) for p in (n // w, w)]
    return (
        x.reshape(b, *parts, c)
        .permute(0, 1, 3, 5, 2, 4, 6, 7)
        .reshape(-1, window[0] * window[1] * window[2], c)
    )


def _join(y: Tensor, window: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Undo `_cut`."""
    b, *size, c = shape
    counts = [n // w for n, w in zip(size, window, strict=True)]
    return y.reshape(b, *counts, *window, c).permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, *size, c)


def _mask(size: tuple[int, ...], window: Sequence[int], shift: Sequence[int], device: torch.device) -> Tensor:
    """Return what keeps tokens apart that the roll made neighbours: (windows, N, N)."""
    regions = torch.zeros(1, *size, 1, device=device)
    cuts = [
        (slice(0, -w), slice(-w, -s), slice(-s, None)) if s else (slice(None),)
        for w, s in zip(window, shift, strict=True)
    ]
    for number, (a, b, c) in enumerate(itertools.product(*cuts)):
        regions[:, a, b, c] = number
    of_tokens = _cut(regions, window)[..., 0]
    return torch.where(of_tokens[:, None, :] == of_tokens[:, :, None], 0.0, _MASKED)


class _Merging(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(8 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, X, Y, Z, C) to half the size and twice the channels."""
        parts = [x[:, a::2, b::2, c::2] for a, b, c in _NEIGHBOURS]
        out: Tensor = self.reduction(self.norm(torch.cat(parts, -1)))
        return out


class _Stage(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, window: Sequence[int], *, recompute: bool) -> None:
        super().__init__()
        none, half = (0, 0, 0), tuple(w // 2 for w in window)
        self.blocks = nn.ModuleList(
            _Block(dim, heads, window, none if i % 2 == 0 else half) for i in range(depth)
        )
        self.downsample = _Merging(dim)
        self._recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, X, Y, Z, C) to the next resolution."""
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self._recompute else block(x)
        out: Tensor = self.downsample(x)
        return out


class _Embed(nn.Module):
    def __init__(self, channels: int, dim: int, patch: Sequence[int]) -> None:
        super().__init__()
        a, b, c = patch
        self.proj = nn.Conv3d(channels, dim, (a, b, c), stride=(a, b, c))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out


class SwinTransformer(nn.Module):
    """An image to five feature maps; arguments, names and numbers are those of MONAI's class.

    Args:
        in_chans: Image channels.
        embed_dim: Channels of the first map.
        window_size: Of the attention.
        patch_size: Of the embedding.
        depths: Blocks of each of four stages.
        num_heads: Heads of each.
        use_checkpoint: Recompute activations in the backward pass.
    """

    def __init__(
        self,
        *,
        in_chans: int,
        embed_dim: int,
        window_size: Sequence[int],
        patch_size: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.patch_embed = _Embed(in_chans, embed_dim, patch_size)
        for index, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            dim = embed_dim << index
            stage = _Stage(dim, depth, heads, window_size, recompute=use_checkpoint)
            self.add_module(f"layers{index + 1}", nn.ModuleList([stage]))

    def forward(self, x: Tensor, normalize: bool = True) -> list[Tensor]:
        """Return maps at 1/2 to 1/32 of the image's size, normalised over their channels where asked."""
        y = self.patch_embed(x).permute(0, 2, 3, 4, 1)
        maps = [y]
        for index in range(4):
            y = self.get_submodule(f"layers{index + 1}.0")(y)
            maps.append(y)
        if normalize:
            maps = [functional.layer_norm(m, m.shape[-1:]) for m in maps]
        return [m.permute(0, 4, 1, 2, 3).contiguous() for m in maps]
