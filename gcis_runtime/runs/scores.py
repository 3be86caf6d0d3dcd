"""Score a label map against a reference on the same grid."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.volume import Volume, corner_shift


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


def check_same_grid(volume: Volume, truth: Volume, *, name: str) -> None:
    """Raise an error unless a reference label map is on the image's grid.

    Raises:
        ImageError: The shapes differ, or a voxel is shifted by more than a tenth of the smallest voxel size.
    """
    fix = "Give the label map that belongs to this image."
    if truth.shape != volume.shape:
        raise ImageError(
            f"{name} has another shape than the image",
            received=f"{truth.shape}",
            expected=f"{volume.shape}",
            fix=fix,
        )
    shift = corner_shift(volume.shape, truth.affine, volume.affine)
    if shift > 0.1 * min(volume.spacing):
        raise ImageError(
            f"{name} lies elsewhere than the image",
            received=f"up to {shift:.2f} mm away",
            expected="one grid",
            fix=fix,
        )
