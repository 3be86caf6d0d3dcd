"""Place a grid along the axes of the patient around an image whose axes are oblique."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from gcis_runtime.spec import Shape3, Triple

STRAIGHT_DEGREES = 1.0
"""Angle below which axes count as those of the patient: 4 mm at the edge of a field of view of 500 mm."""


def oblique_degrees(affine: NDArray[np.float64]) -> float:
    """Return the largest angle between an axis of a grid and the nearest axis of the patient, in degrees.

    Args:
        affine: (4, 4), voxel index to RAS+ mm.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.abs(directions).max(axis=0), 0, 1))).max())


def straight_grid(
    shape: Shape3, affine: NDArray[np.float64], spacing: Triple | None
) -> tuple[Shape3, NDArray[np.float64]]:
    """Return shape and affine (4, 4) of the smallest grid along the patient's axes that covers an image.

    Each axis of the grid has the nearest direction of the patient, so that order and signs of the axes are
    kept. Where the grid is longer than the image by a part of a voxel, half of this part is at either end.

    Args:
        shape: Shape of the image (X, Y, Z).
        affine: (4, 4), voxel index to RAS+ mm.
        spacing: Voxel size in mm along X, Y, Z of the grid; None for that of the image.
    """
    turn = nib.io_orientation(affine)
    steps = np.linalg.norm(affine[:3, :3], axis=0) if spacing is None else np.array(spacing)
    target = np.eye(4)
    target[:3, :3] = 0.0
    for axis, (world, sign) in enumerate(turn):
        target[int(world), axis] = sign * steps[axis]
    corners = np.array(list(np.ndindex(2, 2, 2)), dtype=np.float64) * (np.array(shape) - 1.0)
    where = np.linalg.solve(target[:3, :3], affine[:3, :3] @ corners.T)
    low, high = where.min(axis=1), where.max(axis=1)
    count = np.ceil(high - low - 1e-3).astype(int) + 1  # rounding noise adds no plane
    first = (low + high - (count - 1)) / 2
    target[:3, 3] = affine[:3, 3] + target[:3, :3] @ first
    x, y, z = (int(n) for n in count)
    return (x, y, z), target
