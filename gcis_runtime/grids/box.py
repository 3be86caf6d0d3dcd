"""Boxes of voxels: one index range per axis of a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.spec import Shape3, Triple

Box = tuple[slice, slice, slice]
"""Part of a grid: one slice along X, Y and Z each, with `start` and `stop` given and no step."""


def whole(shape: Shape3) -> Box:
    """Return the box that covers a grid."""
    return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])


def with_part(box: Box, axis: int, part: slice) -> Box:
    """Return a box with the range along one axis replaced."""
    x, y, z = (part if a == axis else other for a, other in enumerate(box))
    return x, y, z


def with_length(shape: Shape3, axis: int, length: int) -> Shape3:
    """Return a shape or an index (X, Y, Z) with the number along one axis replaced."""
    x, y, z = (length if a == axis else n for a, n in enumerate(shape))
    return x, y, z


def box_shape(box: Box) -> Shape3:
    """Return the number of voxels of a box along X, Y, Z."""
    x, y, z = (part.stop - part.start for part in box)
    return x, y, z


def positive_box(values: NDArray[Any]) -> Box | None:
    """Return the smallest box that holds every positive value, or None if there is none.

    Args:
        values: (X, Y, Z).
    """
    inside: NDArray[np.bool_] = values > 0
    flat = np.asarray(inside.any(axis=0))
    if not flat.any():
        return None
    parts = []
    for along in (inside.any(axis=(1, 2)), flat.any(axis=1), flat.any(axis=0)):
        found = np.flatnonzero(along)
        parts.append(slice(int(found[0]), int(found[-1]) + 1))
    return parts[0], parts[1], parts[2]


def dilated(box: Box, shape: Shape3, spacing: Triple, margin: float) -> Box:
    """Return a box extended by a margin on every side and clipped to the grid.

    Args:
        box: Box of voxels.
        shape: Shape of the grid (X, Y, Z).
        spacing: Voxel size in mm along each axis.
        margin: Margin in mm, rounded up to whole voxels.
    """
    x, y, z = (
        slice(max(0, part.start - reach), min(n, part.stop + reach))
        for part, n, reach in zip(box, shape, (int(np.ceil(margin / s)) for s in spacing), strict=True)
    )
    return x, y, z
