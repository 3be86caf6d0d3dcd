"""Compute logits that label structures by their HU, to count the work outside the network."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

WINDOW = (-175.0, 250.0)
"""HU that are mapped to 0 and 1."""
_FIRST_LEVEL, _STEP, _BAND = 80.0, 22.0, 10.0


def levels(structures: int) -> list[float]:
    """Return the HU of each structure, 22 HU apart; levels repeat after seven structures."""
    return [_FIRST_LEVEL + _STEP * (c % 7) for c in range(structures)]


def logit_terms(structures: int) -> tuple[npt.NDArray[np.float32], float]:
    """Return the level of each structure and half the width of the band around it, both scaled to [0, 1].

    The predictor's logit is `band - |image - level|`, one channel per structure.
    """
    low, high = WINDOW
    scaled = (np.array(levels(structures)) - low) / (high - low)
    return scaled.astype(np.float32), _BAND / (high - low)
