"""Interpolate arrays linearly with NumPy: along one axis, along three axes, or at arbitrary coordinates.

Along an axis, the lower neighbour is subtracted from the upper one, and the product with the weight is added
to the lower one. Each step rounds to float32. The kernels of `gcis_runtime.sliding.cuda` follow the same
steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CACHED_VOXELS = 1 << 16
"""Voxels interpolated at a time, so that they stay in the processor cache."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """Voxels along one axis between which each output index lies. Made by `neighbours`.

    Attributes:
        low: Index of the lower neighbour.
        high: Index of the upper neighbour.
        weight: Weight of the upper neighbour, float32.
    """

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    weight: NDArray[np.float32]

    @property
    def consecutive(self) -> bool:
        """Whether the output indices are the centres of consecutive voxels."""
        return not self.weight.any() and bool((np.diff(self.low) == 1).all())

    @property
    def extent(self) -> slice:
        """The voxels from the first to the last neighbour."""
        ends = [int(index) for side in (self.low, self.high) for index in (side[0], side[-1])]
        return slice(min(ends), max(ends) + 1)

    def __getitem__(self, part: slice) -> Neighbours:
        """Return the neighbours of a part of the output indices."""
        return Neighbours(low=self.low[part], high=self.high[part], weight=self.weight[part])

    def moved(self, offset: int) -> Neighbours:
        """Return the neighbours in an array without the first `offset` voxels of this one."""
        return Neighbours(low=self.low - offset, high=self.high - offset, weight=self.weight)

    def reversed(self, size: int) -> Neighbours:
        """Return the neighbours in the reversed array of `size` voxels: the same voxels and weights."""
        return Neighbours(low=size - 1 - self.low, high=size - 1 - self.high, weight=self.weight)


def neighbours(position: NDArray[np.float64], size: int) -> Neighbours:
    """Return the neighbours of coordinates along an axis.

    Args:
        position: Coordinate of each output index, non-decreasing, within the axis.
        size: Length of the axis.
    """
    low = np.floor(position).astype(np.intp)
    weight = (position - low).astype(np.float32)
    return Neighbours(low=low, high=np.minimum(low + 1, size - 1), weight=weight)


def lerp_axis(array: NDArray[Any], position: NDArray[np.float64], axis: int) -> NDArray[Any]:
    """Interpolate along one axis.

    Args:
        array: Three axes, any layout.
        position: Coordinate of each output index, non-decreasing, within the axis.
        axis: Axis to interpolate along.

    Returns:
        float32 in C order; or a view of `array` if the positions are consecutive voxel centres.
    """
    return _lerp(array, {axis: neighbours(position, array.shape[axis])})


def lerp_axes(
    array: NDArray[Any], positions: Sequence[NDArray[np.float64]], order: Sequence[int]
) -> NDArray[np.float32]:
    """Interpolate along three axes.

    Each plane is interpolated along both of its axes while it lies in the processor cache. The axes of the
    planes are those whose voxels are closest in memory, read in memory order also where an axis is flipped.

    Args:
        array: Three axes, any layout.
        positions: Coordinates of the output indices along each axis, non-decreasing, within the axis.
        order: The axes in the order in which they are interpolated.

    Returns:
        float32, in the axis order of `array` and its memory order; may be a view of `array`.
    """
    memory = sorted(range(3), key=lambda axis: -abs(array.strides[axis]))
    array = array.transpose(memory)
    found: list[Neighbours] = []
    for axis, position in enumerate(positions[a] for a in memory):
        near = neighbours(position, array.shape[axis])
        if array.strides[axis] < 0 and not near.consecutive:
            array, near = np.flip(array, axis), near.reversed(array.shape[axis])
        array = _cut(array, axis, near.extent)
        found.append(near.moved(near.extent.start))
    rank = [memory.index(axis) for axis in order]
    slowest = rank.index(0)
    for axes in (rank[:slowest], [0], rank[slowest + 1 :]):
        array = _lerp(array, {axis: found[axis] for axis in axes})
    return np.asarray(array, dtype=np.float32).transpose(np.argsort(memory))


def _cut(array: NDArray[Any], axis: int, part: slice) -> NDArray[Any]:
    """Return a view of a part of an array along one axis."""
    return array[(slice(None),) * axis + (part,)]


def _lerp(array: NDArray[Any], near: dict[int, Neighbours]) -> NDArray[Any]:
    """Interpolate along the first axis, or along one or both of the others in the given order.

    Returns:
        float32 in C order; or a view of `array` if all output indices are consecutive voxel centres.
    """
    for axis in [axis for axis, side in near.items() if side.consecutive]:
        array = _cut(array, axis, slice(near[axis].low[0], near[axis].low[-1] + 1))
    left = [(axis, side) for axis, side in near.items() if not side.consecutive]
    if not left:
        return array
    shape = list(array.shape)
    for axis, side in left:
        shape[axis] = len(side.low)
    out = np.empty(shape, dtype=np.float32)
    rows = max(1, _CACHED_VOXELS * shape[0] // max(1, out.size, array.size * (left[0][0] != 0)))
    for start in range(0, shape[0], rows):
        part = slice(start, start + rows)
        if left[0][0] == 0:
            side = left[0][1][part]
            _lerp_into(out[part], array[side.extent], side.moved(side.extent.start), 0)
            continue
        planes: NDArray[Any] = array[part]
        for number, (axis, side) in enumerate(left, 1):
            if number == len(left):
                target = out[part]
            else:
                wide = [len(side.low) if a == axis else n for a, n in enumerate(planes.shape)]
                target = np.empty(wide, dtype=np.float32)
            _lerp_into(target, planes, side, axis)
            planes = target
    return out


def _lerp_into(target: NDArray[np.float32], array: NDArray[Any], near: Neighbours, axis: int) -> None:
    """Interpolate along one axis into a contiguous array."""
    array = np.ascontiguousarray(array)
    after, before = (_taken(array, index, axis) for index in (near.high, near.low))
    np.subtract(after, before, out=target)
    target *= near.weight.reshape([-1 if a == axis else 1 for a in range(3)])
    target += before


def _taken(array: NDArray[Any], index: NDArray[np.intp], axis: int) -> NDArray[np.float32]:
    """Return elements of a contiguous array along an axis as float32."""
    if axis == 0 and len(index) == 1:
        found = array[index[0] : index[0] + 1]  # a large plane: no copy
    else:
        found = array.take(index, axis, mode="clip")
    return np.asarray(found, dtype=np.float32)


def trilinear(array: NDArray[Any], coordinates: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
    """Interpolate linearly at arbitrary coordinates.

    Args:
        array: Three axes.
        coordinates: One array of coordinates per axis, all of one shape, within the array.

    Returns:
        float32 of the shape of the coordinates.
    """
    low = [np.floor(c).astype(np.intp) for c in coordinates]
    weight = [(c - i).astype(np.float32) for c, i in zip(coordinates, low, strict=True)]
    total = np.zeros(coordinates[0].shape, dtype=np.float32)
    for corner in np.ndindex(2, 2, 2):
        index = tuple(np.minimum(i + b, n - 1) for i, b, n in zip(low, corner, array.shape, strict=True))
        share = np.ones_like(total)
        for w, b in zip(weight, corner, strict=True):
            share *= w if b else 1 - w
        total += share * array[index]
    return total
