"""Foreground probabilities in 8 bits a voxel: the sigmoid of the blended logit.

Restoring works on boxes where values are positive. So logits are shifted first, by so much that whatever is
at most zero afterwards has a probability that rounds to 0 of 255.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FULL = 255
"""What stands for probability 1."""

_SHIFT = np.float32(6.3)
"""255 / (1 + exp(6.3)) is 0.47, which rounds to 0."""


def shifted(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return logits moved up so that every probability above zero is positive.

    Args:
        logits: Blended logits; exactly 0 where no window lay, which then has probability 0.
    """
    return np.where(logits == 0, np.float32(0), logits + _SHIFT)


def scaled(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return 255 times the sigmoid of logits that `shifted` moved, rounded; 0 for values of at most 0."""
    with np.errstate(over="ignore"):  # exp of a large number is infinite, and the probability 0
        out: NDArray[np.uint8] = np.rint(FULL / (1 + np.exp(_SHIFT - values))).astype(np.uint8)
    return out
