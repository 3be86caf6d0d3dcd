"""Score a label map against a reference on the same grid."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def dice_by_value(
    labels: NDArray[Any], truth: NDArray[Any], values: Iterable[int]
) -> dict[int, float | None]:
    """Return the Dice coefficient 2 |A and B| / (|A| + |B|) of each label value.

    Args:
        labels: Label map (X, Y, Z).
        truth: Reference label map, same shape.
        values: Label values to score.

    Returns:
        Dice of each value in [0, 1]; None if the reference lacks the structure, because public labels are
        partial: a structure without a contour may still be present.
    """
    scores: dict[int, float | None] = {}
    for value in values:
        predicted, wanted = labels == value, truth == value
        size = int(np.count_nonzero(wanted))
        both = int(np.count_nonzero(predicted & wanted))
        scores[value] = 2.0 * both / (int(np.count_nonzero(predicted)) + size) if size else None
    return scores
