"""Compute overlap metrics of masks."""

from __future__ import annotations

import numpy as np


def dice(
    predicted: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    truth: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
) -> float:
    """Return the Dice coefficient of two masks of the same shape; 1 if both are empty."""
    total = int(predicted.sum()) + int(truth.sum())
    return 2.0 * int((predicted & truth).sum()) / total if total else 1.0
