"""The router's gradient at one pathway's activations.

The published network adds up all blocks, each multiplied by its hard weight (one or zero). The sum's
value is the chosen block's output, and only the chosen block's parameters get a gradient. What the
other blocks' outputs are needed for is the router's gradient alone: d loss / d weight_k is the inner
product of the output's gradient with block k's output. Here it is computed in the backward pass, block
after block and without autograd, so that an unsampled block keeps nothing between the two passes.
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
        wide = torch.promote_types(grad.dtype, torch.float32)  # sums of half precision would overflow
        with torch.no_grad(), torch.autocast(grad.device.type, dtype=dtype, enabled=enabled):
            for index, block in enumerate(ctx.blocks):
                out = y if index == ctx.choice else block(x)
                products.append((grad.to(wide) * out.to(wide)).flatten(1).sum(1))
        return grad, None, torch.stack(products, dim=1), None, None


def gate(y: Tensor, x: Tensor, gates: Tensor, choice: int, blocks: Sequence[nn.Module]) -> Tensor:
    """Return `y` unchanged, with the gradient that the published sum gives to `gates`.

    Args:
        y: Output of `blocks[choice]` on `x`.
        x: Input of the position's blocks; `y` carries its gradient.
        gates: (B, K) hard one-hot weights of each sample, one at `choice`, with a gradient
            (straight-through).
        choice: The sampled block.
        blocks: All K blocks, in order.
    """
    return _Gate.apply(y, x, gates, choice, blocks)  # type: ignore[no-any-return,no-untyped-call]
