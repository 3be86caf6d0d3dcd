"""Convert blended logits to foreground probabilities of 8 bits: 255 times the sigmoid.

Mapping to the native grid only computes boxes with positive values. Logits are therefore shifted, so that
every shifted logit of at most zero has a probability that rounds to 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FULL = 255
"""Value of probability 1."""

_SHIFT = np.float32(6.3)
"""255 / (1 + exp(6.3)) is 0.47, which rounds to 0."""


def shifted(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return shifted logits, which are positive wherever the probability does not round to 0.

    Args:
        logits: Blended logits. Exactly 0 marks voxels without a window, whose probability is 0.
    """
    return np.where(logits == 0, np.float32(0), logits + _SHIFT)


def scaled(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the rounded probability times 255 for logits from `shifted`; 0 for values of at most 0."""
    with np.errstate(over="ignore"):  # exp of a large number is infinite: the probability is 0
        out: NDArray[np.uint8] = np.rint(FULL / (1 + np.exp(_SHIFT - values))).astype(np.uint8)
    return out
