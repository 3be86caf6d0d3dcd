"""Regions: boxes of the file's voxels outside which every label is background, and the windows they need.

A voxel's label depends on the logits of the network's voxels around it, and those on every window that
holds them. All windows that touch a region's logits are run, in the order of the whole plan: inside a region
labels equal those of the whole run bit for bit.
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
        boxes: Boxes of the file's voxels (X, Y, Z), which may overlap; none: nothing.
        origin: Where it comes from, for people.
    """

    boxes: tuple[Box, ...]
    origin: str

    def intersection(self, other: Region) -> Region:
        """Return what both hold."""
        pairs = [
            tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, two, strict=True))
            for one in self.boxes
            for two in other.boxes
        ]
        boxes = tuple((x, y, z) for x, y, z in pairs if all(p.start < p.stop for p in (x, y, z)))
        return Region(boxes=boxes, origin=f"{self.origin}, {other.origin}")

    def bounds(self) -> list[list[int]] | None:
        """Return first index and end along each axis of the box around all boxes; None for nothing."""
        if not self.boxes:
            return None
        return [
            [min(box[axis].start for box in self.boxes), max(box[axis].stop for box in self.boxes)]
            for axis in range(3)
        ]


def oriented_boxes(region: Region, transform: GridTransform, shape: Shape3) -> tuple[Box, ...]:
    """Return a region's boxes on the re-oriented file grid (the network's axes, the file's voxels).

    Args:
        region: The region.
        transform: Re-orientation of the file.
        shape: The file's grid (X, Y, Z).
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
    """Return the part of a plan whose windows decide labels of `boxes`.

    Args:
        plan: All windows.
        transform: The way from the file's grid to the network's.
        boxes: On the re-oriented file grid.
    """
    starts = np.array(plan.starts, dtype=np.int64).reshape(-1, 3)
    kept, before = np.zeros(len(starts), dtype=np.bool_), np.array(plan.before)
    for box in boxes:
        first, last = transform.around([part.start for part in box], [part.stop - 1 for part in box])
        ends = starts + np.array(plan.patch_size)
        kept |= ((starts <= last + before) & (ends > first + before)).all(axis=1)
    return replace(plan, starts=tuple(s for s, keep in zip(plan.starts, kept, strict=True) if keep))
