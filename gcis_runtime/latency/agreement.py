"""Compare label maps: share of equal voxels, and mean Dice over structures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def agreement(labels: npt.NDArray[Any], expected: npt.NDArray[Any]) -> dict[str, float | None]:
    """Compare two label maps of one shape.

    Returns:
        `labels_equal`: share of equal voxels; `labels_equal_of_labelled`: the same among voxels that either
        map labels (None without one); `dice`: see `mean_dice`.
    """
    either = (labels > 0) | (expected > 0)
    same = labels == expected
    return {
        "labels_equal": float(same.mean()),
        "labels_equal_of_labelled": float(same[either].mean()) if either.any() else None,
        "dice": mean_dice(labels, expected),
    }


def mean_dice(labels: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float | None:
    """Return the mean Dice over the structures of the expected label map; None if it has none."""
    scores = []
    for value in np.unique(expected):
        if value:
            found, wanted = labels == value, expected == value
            both = int(np.count_nonzero(found & wanted))
            scores.append(2.0 * both / (int(np.count_nonzero(found)) + int(np.count_nonzero(wanted))))
    return round(float(np.mean(scores)), 5) if scores else None
