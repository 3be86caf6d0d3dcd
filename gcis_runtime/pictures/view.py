"""Define a volume with its label map along the patient's axes, and find the structures in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from gcis_runtime.images.volume import Volume

PLANES = (("sagittal", 0), ("coronal", 1), ("axial", 2))
"""Name and normal axis of each plane, in the order in which they are drawn."""
SIDES = {0: ("A", "P"), 1: ("R", "L"), 2: ("R", "L")}
"""Letters at the left and right side of the picture of a plane, by normal axis."""

_AIR = -500


@dataclass(frozen=True, kw_only=True, eq=False)
class PatientView:
    """A volume with its label map along the patient's axes right, anterior and superior.

    Attributes:
        image: HU, (R, A, S); a view of the volume's array.
        labels: Label values, (R, A, S); a view.
        spacing: (3,) Distance in mm between voxel centres along these axes.
        affine: (4, 4) Index along these axes to RAS+ position in mm.
    """

    image: NDArray[Any]
    labels: NDArray[Any]
    spacing: NDArray[np.float64]
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, volume: Volume, labels: NDArray[Any]) -> PatientView:
        """Return the view of a volume and a label map (X, Y, Z) of its grid."""
        change = nib.io_orientation(volume.affine)
        moved = volume.affine @ nib.orientations.inv_ornt_aff(change, volume.shape)
        return cls(
            image=_along_axes(volume.array, change),
            labels=_along_axes(labels, change),
            spacing=np.linalg.norm(moved[:3, :3], axis=0),
            affine=np.asarray(moved),
        )

    def position_mm(self, axis: int, index: int) -> float:
        """Return the RAS+ coordinate of a plane along its axis, at the centre of the plane."""
        place = (np.array(self.image.shape) - 1) / 2
        place[axis] = index
        return float(self.affine[axis, :3] @ place + self.affine[axis, 3])


def _along_axes(array: NDArray[Any], change: NDArray[Any]) -> NDArray[Any]:
    """Flip and permute to the axes right, anterior, superior (a view)."""
    out: NDArray[Any] = nib.orientations.apply_orientation(array, change)
    return out


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Where the voxels of a structure are.

    Attributes:
        low: First index along each axis.
        high: Last index along each axis.
        largest: Index of the plane with the most voxels of the structure along each axis; of equal ones, the
            nearest to the middle of the structure.
        centre: Index nearest to the centroid along each axis.
    """

    low: tuple[int, int, int]
    high: tuple[int, int, int]
    largest: tuple[int, int, int]
    centre: tuple[int, int, int]


def find_extents(labels: NDArray[Any], values: Sequence[int]) -> dict[int, Extent]:
    """Return the extent of each structure that has voxels, by label value, in one pass over the planes.

    Args:
        labels: Label values, (R, A, S).
        values: Label values to find.
    """
    if not values:
        return {}
    size = len(values)
    number = np.full(max(values) + 2, -1, dtype=np.intp)  # index of each label value; -1 for all others
    number[list(values)] = np.arange(size)
    counts = [np.zeros((size, n), dtype=np.int64) for n in labels.shape]
    for k in range(labels.shape[2]):
        x, y = np.nonzero(labels[:, :, k])
        which = number[np.minimum(labels[x, y, k].astype(np.intp), len(number) - 1)]
        known = which >= 0
        x, y, which = x[known], y[known], which[known]
        for axis, index in ((0, x), (1, y)):
            width = labels.shape[axis]
            counts[axis] += np.bincount(which * width + index, minlength=size * width).reshape(size, width)
        counts[2][:, k] = np.bincount(which, minlength=size)
    return {
        value: _extent([per_axis[i] for per_axis in counts])
        for i, value in enumerate(values)
        if counts[2][i].any()
    }


def _extent(counts: Sequence[NDArray[np.int64]]) -> Extent:
    """Return the extent of a structure.

    Args:
        counts: Number of voxels in each plane, per axis.
    """
    low, high, largest, centre = [], [], [], []
    for planes in counts:
        found = np.flatnonzero(planes)
        low.append(int(found[0]))
        high.append(int(found[-1]))
        best = np.flatnonzero(planes == planes.max())
        largest.append(int(best[np.argmin(np.abs(best - (found[0] + found[-1]) / 2))]))
        centre.append(round(float(np.average(np.arange(len(planes)), weights=planes))))
    return Extent(low=_three(low), high=_three(high), largest=_three(largest), centre=_three(centre))


def _three(values: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = values
    return x, y, z


def body_box(image: NDArray[Any], maps: Sequence[NDArray[Any]]) -> tuple[slice, slice, slice]:
    """Return the box of the voxels that are denser than air or labelled, to leave out the air around.

    Args:
        image: HU.
        maps: Label maps of its grid.
    """
    inside = image > _AIR
    for labels in maps:
        inside |= labels > 0
    if not inside.any():
        return slice(None), slice(None), slice(None)
    box = []
    for axis in range(3):
        found = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(found[0]) - 2), int(found[-1]) + 3))
    return box[0], box[1], box[2]


def centre_of(labels: NDArray[Any]) -> NDArray[np.intp]:
    """Return the voxel nearest to the centroid of all labelled voxels, or the middle of an empty map."""
    inside = labels > 0
    if not inside.any():
        return np.array(labels.shape) // 2
    centre = []
    for axis in range(3):
        counts = inside.sum(axis=tuple(a for a in range(3) if a != axis))
        centre.append(round(float(np.average(np.arange(len(counts)), weights=counts))))
    return np.array(centre)
