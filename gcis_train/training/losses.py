"""Dice plus cross-entropy, for two classes a prompt and for one softmax over all structures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

SMOOTH = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean in its two parts, so that several processes can add theirs up.

    Attributes:
        total: Scalar sum, with its gradient.
        count: Scalar that the sum is divided by, without one.
    """

    total: Tensor
    count: Tensor


def value(terms: Sequence[Mean]) -> Tensor:
    """Return the loss of one process: the sum of the means; a mean over nothing is zero."""
    return torch.stack([t.total / t.count.clamp(min=1e-12) for t in terms]).sum()


def soft_dice_loss(probability: Tensor, target: Tensor) -> Tensor:
    """Return one minus the soft Dice of each row, with MONAI's smoothing.

    Args:
        probability: (N, ...) in [0, 1].
        target: The same shape, 0 and 1.

    Returns:
        (N,) losses; zero where both are empty.
    """
    p, t = probability.flatten(1), target.flatten(1)
    overlap = (p * t).sum(1)
    total = p.sum(1) + t.sum(1)
    return 1.0 - (2.0 * overlap + SMOOTH) / (total + SMOOTH)


def prompt_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice (mean of both classes, as MONAI's `DiceCELoss` takes it) plus cross-entropy.

    Args:
        logits: (N, 2, X, Y, Z), background and foreground.
        target: (N, X, Y, Z), 0 and 1.

    Returns:
        The mean over rows, a scalar.
    """
    logits = logits.float()
    probability = logits.softmax(1)
    dice = 0.5 * (soft_dice_loss(probability[:, 1], target) + soft_dice_loss(probability[:, 0], 1.0 - target))
    return dice.mean() + torch.nn.functional.cross_entropy(logits, target.long())


def joint_loss(
    margins: Tensor, target: Tensor, known: Tensor, *, foreground_weight: float = 1.0
) -> tuple[Mean, Mean]:
    """Dice plus cross-entropy of one softmax over background and all structures.

    Background has logit zero, so that a prompt's logit is its margin. A structure that was not labelled
    on a case leaves the softmax of that case: its voxels are counted as background there, and it is not
    punished for claiming them.

    Args:
        margins: (N, P, X, Y, Z).
        target: (N, X, Y, Z) int64; 0 background, `p + 1` structure `p`.
        known: (N, P) bool: labelled on this case.
        foreground_weight: Weight of a structure's voxel in the cross-entropy, against one of background.
            Where structures fill a thousandth of a window, their gradients otherwise vanish before
            they appear.

    Returns:
        The cross-entropy (a mean over voxels by weight) and the Dice loss (a mean over structures present).
    """
    margins = margins.float()
    unknown = ~known[:, :, None, None, None]
    logits = torch.cat((torch.zeros_like(margins[:, :1]), margins.masked_fill(unknown, -1e4)), dim=1)
    weight = torch.full((logits.shape[1],), foreground_weight, device=logits.device)
    weight[0] = 1.0
    cross_entropy = torch.nn.functional.cross_entropy(logits, target, weight=weight, reduction="sum")
    probability = logits.softmax(1)[:, 1:]
    classes = torch.arange(1, margins.shape[1] + 1, device=target.device)
    one_hot = (target[:, None] == classes[None, :, None, None, None]).float()
    dice = soft_dice_loss(probability.flatten(0, 1), one_hot.flatten(0, 1)).view(known.shape)
    present = known & (one_hot.flatten(2).sum(2) > 0)
    return (
        Mean(total=cross_entropy, count=weight[target].sum()),
        Mean(total=(dice * present).sum(), count=present.sum().float()),
    )
