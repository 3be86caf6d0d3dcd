"""Boxes of voxels: parts of a grid given by an index range along each axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.spec import Shape3, Triple

Box = tuple[slice, slice, slice]
"""Part of a grid: first and last index along X, Y, Z, both given."""


def whole(shape: Shape3) -> Box:
    """Return the box of a whole grid."""
    return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])


def with_part(box: Box, axis: int, part: slice) -> Box:
    """Return a box with another range along one axis."""
    x, y, z = (part if a == axis else other for a, other in enumerate(box))
    return x, y, z


def positive_box(values: NDArray[Any]) -> Box | None:
    """Return the smallest box that holds every positive value, or None when there is none."""
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
    """Return a box grown by a margin in mm on every side, within the grid.

    Args:
        box: The box.
        shape: The grid.
        spacing: mm between voxels.
        margin: mm.
    """
    x, y, z = (
        slice(max(0, part.start - reach), min(n, part.stop + reach))
        for part, n, reach in zip(box, shape, (int(np.ceil(margin / s)) for s in spacing), strict=True)
    )
    return x, y, z
