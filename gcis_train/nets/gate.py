"""Compute the gradient of the router with the activation memory of a single pathway.

The published network sums the outputs of all blocks, each multiplied by its hard weight (one or zero). The
value of the sum is the output of the chosen block, and only the parameters of that block receive a gradient.
The outputs of the other blocks are needed only for the gradient of the router: d loss / d weight_k is the
inner product of the gradient of the output and the output of block k. This module computes it in the backward
pass, block by block and without autograd, so that blocks that were not sampled store no activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any, y: Tensor, x: Tensor, gates: Tensor, choice: int, blocks: Sequence[nn.Module]
    ) -> Tensor:
        ctx.save_for_backward(y, x)
        ctx.choice, ctx.blocks = choice, blocks
        ctx.autocast = (torch.is_autocast_enabled(y.device.type), torch.get_autocast_dtype(y.device.type))
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        y, x = ctx.saved_tensors
        products: list[Tensor] = []
        enabled, dtype = ctx.autocast
        wide = torch.promote_types(grad.dtype, torch.float32)  # sums in half precision would overflow
        with torch.no_grad(), torch.autocast(grad.device.type, dtype=dtype, enabled=enabled):
            for index, block in enumerate(ctx.blocks):
                out = y if index == ctx.choice else block(x)
                products.append((grad.to(wide) * out.to(wide)).flatten(1).sum(1))
        return grad, None, torch.stack(products, dim=1), None, None


def gate(y: Tensor, x: Tensor, gates: Tensor, choice: int, blocks: Sequence[nn.Module]) -> Tensor:
    """Return `y` unchanged; in the backward pass, `gates` receives the gradient of the published sum.

    Args:
        y: Output of `blocks[choice]` for `x`.
        x: Input of the blocks; its gradient flows through `y`.
        gates: (B, K) hard one-hot weights per sample, one at `choice`, with a straight-through gradient.
        choice: Index of the sampled block.
        blocks: All K blocks, in order.
    """
    return _Gate.apply(y, x, gates, choice, blocks)  # type: ignore[no-any-return,no-untyped-call]
