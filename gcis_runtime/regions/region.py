"""Define regions of a volume outside which every label is background, and select the windows that they need.

The label of a voxel depends on the logits of the network voxels around it, and these on every window that
contains them. All windows that contribute to a region are run, in the order of the full plan. Labels inside
the region equal those of a run without a region bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gcis_runtime.grids.box import Box
from gcis_runtime.grids.grid_transform import GridTransform
from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.spec import Shape3


@dataclass(frozen=True, kw_only=True)
class Region:
    """Part of a volume.

    Attributes:
        boxes: Boxes of voxels of the file (X, Y, Z), which may overlap; no boxes mean an empty region.
        origin: Description of the region's origin for users.
    """

    boxes: tuple[Box, ...]
    origin: str

    def intersection(self, other: Region) -> Region:
        """Return the intersection of two regions."""
        pairs = [
            tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, two, strict=True))
            for one in self.boxes
            for two in other.boxes
        ]
        boxes = tuple((x, y, z) for x, y, z in pairs if all(p.start < p.stop for p in (x, y, z)))
        return Region(boxes=boxes, origin=f"{self.origin}, {other.origin}")

    def bounds(self) -> list[list[int]] | None:
        """Return the first index and end of the bounding box along each axis; None for an empty region."""
        if not self.boxes:
            return None
        return [
            [min(box[axis].start for box in self.boxes), max(box[axis].stop for box in self.boxes)]
            for axis in range(3)
        ]


def oriented_boxes(region: Region, transform: GridTransform, shape: Shape3) -> tuple[Box, ...]:
    """Return a region's boxes on the reoriented file grid: axes of the network, voxels of the file.

    Args:
        region: The region.
        transform: Transform that reorients the file grid.
        shape: Shape of the file grid (X, Y, Z).
    """
    found = []
    for box in region.boxes:
        turned = [
            slice(n - part.stop, n - part.start) if axis in transform.flips else part
            for axis, (part, n) in enumerate(zip(box, shape, strict=True))
        ]
        x, y, z = (turned[axis] for axis in transform.order)
        found.append((x, y, z))
    return tuple(found)


def windows_touching(plan: WindowPlan, transform: GridTransform, boxes: Sequence[Box]) -> WindowPlan:
    """Return a plan with only the windows that contribute to labels in `boxes`.

    Args:
        plan: Plan with all windows.
        transform: Transform between the file grid and the network grid.
        boxes: Boxes of the reoriented file grid.
    """
    starts = np.array(plan.starts, dtype=np.int64).reshape(-1, 3)
    kept, before = np.zeros(len(starts), dtype=np.bool_), np.array(plan.before)
    for box in boxes:
        first, last = transform.around([part.start for part in box], [part.stop - 1 for part in box])
        ends = starts + np.array(plan.patch_size)
        kept |= ((starts <= last + before) & (ends > first + before)).all(axis=1)
    return replace(plan, starts=tuple(s for s, keep in zip(plan.starts, kept, strict=True) if keep))
