"""Find boxes that hold the patient's body, without most of the air and the table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.grids.box import Box, positive_box
from gcis_runtime.images.volume import Volume
from gcis_runtime.regions.region import Region

THRESHOLD = -400.0
"""Threshold in HU: air, foam and cushions are below; fat, skin and muscle are above."""
MARGIN = 25.0
"""Margin in mm for fingers and skin folds lost on the coarse grid or by erosion."""
_CELL = 4.0
"""Approximate voxel size in mm of the grid on which the body is searched."""
_BLOCK = 48.0
"""Thickness of a box in mm along the third axis of the file."""


def body_region(volume: Volume) -> Region | None:
    """Return boxes that hold the body, or None if no body is found.

    The volume is thresholded on a grid of about 4 mm and eroded by one voxel, which removes a table's shell
    of less than two voxels. The largest connected component is enclosed by one box per 48 mm of slices,
    extended by `MARGIN`.
    """
    steps = [max(1, round(_CELL / s)) for s in volume.spacing]
    coarse = volume.array[tuple(slice(None, None, step) for step in steps)]
    found = largest_part(_eroded(coarse > THRESHOLD))
    if not found.any():
        return None
    boxes = []
    depth = max(1, int(_BLOCK / volume.spacing[2]))
    reach = [int(np.ceil(MARGIN / s)) for s in volume.spacing]
    for first in range(0, volume.shape[2], depth):
        planes = slice(max(0, first - reach[2]) // steps[2], (first + depth + reach[2]) // steps[2] + 1)
        box = positive_box(found[:, :, planes])
        if box is not None:
            x, y = (
                slice(max(0, (b.start - 1) * s - r), min(n, (b.stop + 1) * s + r))
                for b, s, r, n in zip(box[:2], steps[:2], reach[:2], volume.shape[:2], strict=True)
            )
            boxes.append((x, y, slice(first, min(first + depth, volume.shape[2]))))
    return Region(boxes=_joined(boxes), origin="the body")


def largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected component of a mask, with 6-connectivity; empty for an empty mask.

    Every voxel starts with a unique number. Along each axis in turn, every run of set voxels takes its
    largest number, until nothing changes.

    Args:
        mask: (X, Y, Z).
    """
    labels = np.where(mask, np.arange(1, mask.size + 1, dtype=np.int64).reshape(mask.shape), 0)
    while True:
        before = labels
        for axis in range(3):
            labels = _spread(labels, axis)
        if np.array_equal(before, labels):
            break
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((labels == sizes.argmax()) & mask)


def _spread(labels: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    """Set every voxel of a run along an axis to the largest number of the run; 0 separates runs."""
    turned = np.moveaxis(labels, axis, -1)
    flat = np.ascontiguousarray(turned).reshape(-1, turned.shape[-1])
    begins = np.ones(flat.shape, dtype=np.bool_)
    begins[:, 1:] = (flat[:, 1:] > 0) != (flat[:, :-1] > 0)
    starts = np.flatnonzero(begins.ravel())
    most = np.maximum.reduceat(flat.ravel(), starts)
    spread = np.repeat(most, np.diff(np.append(starts, flat.size)))
    return np.moveaxis(spread.reshape(turned.shape), -1, axis)


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the set voxels whose six neighbours are also set; voxels beyond the border count as set."""
    out = mask.copy()
    for axis in range(3):
        view, source = np.moveaxis(out, axis, 0), np.moveaxis(mask, axis, 0)
        view[1:] &= source[:-1]
        view[:-1] &= source[1:]
    return out


def _joined(boxes: list[Box]) -> tuple[Box, ...]:
    """Join adjacent boxes that have the same extent along X and Y."""
    out: list[Box] = []
    for box in boxes:
        if out and out[-1][:2] == box[:2] and out[-1][2].stop == box[2].start:
            out[-1] = (*box[:2], slice(out[-1][2].start, box[2].stop))
        else:
            out.append(box)
    return tuple(out)
