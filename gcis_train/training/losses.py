"""Compute Dice plus cross-entropy losses, for two classes per prompt or one softmax over all structures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

SMOOTH = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean:
    """Numerator and denominator of a mean, so that several processes can add theirs.

    Attributes:
        total: Scalar sum, with gradient.
        count: Scalar divisor, without gradient.
        of_routers: Whether the mean depends on the routers alone, and not on windows.
    """

    total: Tensor
    count: Tensor
    of_routers: bool = False


def value(terms: Sequence[Mean]) -> Tensor:
    """Return the loss of one process, the sum of the means; a mean with count zero is zero."""
    return torch.stack([t.total / t.count.clamp(min=1e-12) for t in terms]).sum()


def soft_dice_loss(probability: Tensor, target: Tensor) -> Tensor:
    """Return one minus the soft Dice of each row, with the smoothing term of MONAI.

    Args:
        probability: (N, ...) in [0, 1].
        target: The same shape, 0 and 1.

    Returns:
        (N,) losses; zero if both are empty.
    """
    p, t = probability.flatten(1), target.flatten(1)
    overlap = (p * t).sum(1)
    total = p.sum(1) + t.sum(1)
    return 1.0 - (2.0 * overlap + SMOOTH) / (total + SMOOTH)


def prompt_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return Dice loss (mean of both classes, as in MONAI's `DiceCELoss`) plus cross-entropy.

    Args:
        logits: (N, 2, X, Y, Z), background and foreground.
        target: (N, X, Y, Z), 0 and 1.

    Returns:
        Scalar mean over rows.
    """
    logits = logits.float()
    probability = logits.softmax(1)
    dice = 0.5 * (soft_dice_loss(probability[:, 1], target) + soft_dice_loss(probability[:, 0], 1.0 - target))
    return dice.mean() + torch.nn.functional.cross_entropy(logits, target.long())


def joint_loss(
    logits: Tensor, target: Tensor, known: Tensor, *, foreground_weight: float = 1.0
) -> tuple[Mean, Mean]:
    """Return Dice and cross-entropy losses of one softmax over background and all structures.

    The logit of background is zero. A structure that is not labelled in a case is excluded from the softmax
    of that case; its voxels count as background there, and predicting it is not penalised.

    Args:
        logits: (N, P, X, Y, Z) logit of each structure, relative to background.
        target: (N, X, Y, Z) int64; 0 is background, `p + 1` is structure `p`.
        known: (N, P) bool; whether the structure is labelled in the case.
        foreground_weight: Weight of structure voxels in the cross-entropy, relative to background voxels. If
            structures fill a thousandth of a window, background gradients dominate otherwise.

    Returns:
        Cross-entropy (weighted mean over voxels) and Dice loss (mean over structures that are present).
    """
    logits = logits.float()
    unknown = ~known[:, :, None, None, None]
    class_logits = torch.cat((torch.zeros_like(logits[:, :1]), logits.masked_fill(unknown, -1e4)), dim=1)
    weight = torch.full((class_logits.shape[1],), foreground_weight, device=logits.device)
    weight[0] = 1.0
    cross_entropy = torch.nn.functional.cross_entropy(class_logits, target, weight=weight, reduction="sum")
    probability = class_logits.softmax(1)[:, 1:]
    classes = torch.arange(1, logits.shape[1] + 1, device=target.device)
    one_hot = (target[:, None] == classes[None, :, None, None, None]).float()
    dice = soft_dice_loss(probability.flatten(0, 1), one_hot.flatten(0, 1)).view(known.shape)
    present = known & (one_hot.flatten(2).sum(2) > 0)
    return (
        Mean(total=cross_entropy, count=weight[target].sum()),
        Mean(total=(dice * present).sum(), count=present.sum().float()),
    )
