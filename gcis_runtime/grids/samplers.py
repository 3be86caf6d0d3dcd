"""Sample the voxels of the file grid that a tile of the network grid determines.

Every voxel of the file grid is assigned to exactly one tile: the tile that holds its nearest network voxel
or, for linear interpolation, its upper neighbours. `AxisSampler` handles grids of the same directions,
`BlockSampler` all others (gantry tilt, rounding noise that breaks ties). Boxes and start indices are (X, Y,
Z) of the reoriented grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.grids.box import Box, positive_box
from gcis_runtime.grids.interpolation import lerp_axis, trilinear
from gcis_runtime.grids.resample import GridMap, axis_coordinates, general_coordinates

BLOCK = 48
"""Edge length in voxels of the blocks of the file grid; coordinates take 24 bytes per voxel of a block."""

_PLACE_VOXELS = 1 << 22
"""Voxels sampled at a time: a tile of a coarse network may cover file voxels with 0.5 GB of logits."""


class SampledBox(NamedTuple):
    """Values on a box of the file grid.

    Attributes:
        box: The box.
        values: (X, Y, Z) of the box; zero where another tile determines the voxel.
    """

    box: Box
    values: NDArray[Any]


class Place(Protocol):
    """Box of the file grid with voxels that one tile determines."""

    @property
    def box(self) -> Box:
        """The box of the file grid."""
        ...

    def nearest(self, values: NDArray[Any], start: Sequence[int]) -> SampledBox | None:
        """Sample with nearest neighbour.

        Args:
            values: (X, Y, Z) labels or a mask of the tile.
            start: First index of the tile on the network grid.

        Returns:
            A box that holds every positive value, or None if there is none.
        """
        ...

    def linear(self, logits: NDArray[np.float32], start: Sequence[int]) -> SampledBox | None:
        """Interpolate logits linearly.

        Args:
            logits: (X, Y, Z) of the tile, extended by the last plane and the last line of earlier tiles.
            start: First index of `logits` on the network grid.

        Returns:
            A box that holds every positive logit, or None if no logit can be positive.
        """
        ...


class AxisSampler:
    """Sampler for grids of the same directions: one array of coordinates per axis.

    Args:
        grid: Map from file voxels to network voxels.
        smooth: Prepare for `Place.linear`; otherwise for `Place.nearest`.
        index: Network voxel of each file index per axis, non-decreasing, in place of the nearest one; beyond
            the grid where the file voxel is background. Only without `smooth`.

    Attributes:
        order: Axes in the order in which they are interpolated.
        position: Network coordinate of each file index, per axis.
        low: Lower neighbour of each coordinate, or its nearest voxel, per axis.
        high: Upper neighbour of each coordinate, or its nearest voxel, per axis.
    """

    def __init__(
        self, grid: GridMap, *, smooth: bool, index: Sequence[NDArray[np.intp]] | None = None
    ) -> None:
        self.order = grid.cheapest_order()
        self.position = [axis_coordinates(grid, axis) for axis in range(3)]
        self.low, self.high = [], []
        if index is not None:
            self.low, self.high = list(index), list(index)
            return
        for position, size in zip(self.position, grid.shape_in, strict=True):
            low = np.floor(position) if smooth else np.rint(position)
            self.low.append(low.astype(np.intp))
            self.high.append(np.minimum(low + int(smooth), size - 1).astype(np.intp))

    def places(self, start: Sequence[int], shape: Sequence[int]) -> list[Place]:
        """Return the voxels that a tile determines, in boxes of at most about `_PLACE_VOXELS`; may be empty.

        Args:
            start: First index of the tile on the network grid.
            shape: Shape of the tile.
        """
        ranges = [
            np.searchsorted(high, (first, first + size))
            for high, first, size in zip(self.high, start, shape, strict=True)
        ]
        if any(begin >= stop for begin, stop in ranges):
            return []
        x, y, z = (slice(int(begin), int(stop)) for begin, stop in ranges)
        face = (y.stop - y.start) * (z.stop - z.start)
        step = max(1, _PLACE_VOXELS // face)
        return [
            _AxisPlace(self, (slice(first, min(first + step, x.stop)), y, z))
            for first in range(x.start, x.stop, step)
        ]


class _AxisPlace:
    """See `Place`."""

    def __init__(self, sampler: AxisSampler, box: Box) -> None:
        self._sampler, self.box = sampler, box

    def nearest(self, values: NDArray[Any], start: Sequence[int]) -> SampledBox | None:
        box = self._within(values, start)
        if box is None:
            return None
        for axis in self._sampler.order:
            index = self._sampler.low[axis][box[axis]] - start[axis]
            values = values.take(index, axis=axis)
        return SampledBox(box, values)

    def linear(self, logits: NDArray[np.float32], start: Sequence[int]) -> SampledBox | None:
        box = self._within(logits, start)
        if box is None:
            return None
        s, crop, positions = self._sampler, [], []
        for axis in range(3):
            low, high = int(s.low[axis][box[axis].start]), int(s.high[axis][box[axis].stop - 1])
            crop.append(slice(low - start[axis], high + 1 - start[axis]))
            positions.append(s.position[axis][box[axis]] - low)
        values: NDArray[Any] = logits[tuple(crop)]
        for axis in s.order:
            values = lerp_axis(values, positions[axis], axis)
        return SampledBox(box, values)

    def _within(self, values: NDArray[Any], start: Sequence[int]) -> Box | None:
        """Return the part of the box that depends on a positive value, or None."""
        positive = positive_box(values)
        if positive is None:
            return None
        parts = []
        for axis in range(3):
            first, last = start[axis] + positive[axis].start, start[axis] + positive[axis].stop - 1
            begin = max(self.box[axis].start, int(np.searchsorted(self._sampler.high[axis], first)))
            stop = min(self.box[axis].stop, int(np.searchsorted(self._sampler.low[axis], last, side="right")))
            if begin >= stop:
                return None
            parts.append(slice(begin, stop))
        return parts[0], parts[1], parts[2]


class BlockSampler:
    """Sampler for any two grids: coordinates per voxel, computed in blocks.

    Args:
        grid: Map from file voxels to network voxels.
        smooth: Prepare for `Place.linear`; otherwise for `Place.nearest`.
    """

    def __init__(self, grid: GridMap, *, smooth: bool) -> None:
        self.grid, self.smooth = grid, smooth
        cuts = [[slice(i, min(i + BLOCK, n)) for i in range(0, n, BLOCK)] for n in grid.shape_out]
        self._blocks: list[Box] = [(x, y, z) for x in cuts[0] for y in cuts[1] for z in cuts[2]]
        ends = np.array([[(part.start, part.stop - 1) for part in block] for block in self._blocks])
        corners = np.stack([ends[:, (0, 1, 2), c] for c in np.ndindex(2, 2, 2)], axis=1)
        where = corners @ grid.matrix[:3, :3].T + grid.matrix[:3, 3]
        where = np.clip(where, 0, np.array(grid.shape_in) - 1)
        # One voxel of tolerance on either side: `places` determines the voxels of a tile exactly.
        self._first, self._last = where.min(axis=1) - 1, where.max(axis=1) + 2

    def places(self, start: Sequence[int], shape: Sequence[int]) -> list[Place]:
        """Return the blocks with voxels that a tile determines; see `AxisSampler.places`."""
        stop = np.add(start, shape)
        near = (self._first < stop).all(axis=1) & (self._last >= start).all(axis=1)
        found: list[Place] = []
        for number in np.flatnonzero(near):
            block = self._blocks[number]
            coordinates = general_coordinates(self.grid, block)
            inside = np.ones(coordinates[0].shape, dtype=np.bool_)
            for c, first, end, size in zip(coordinates, start, stop, self.grid.shape_in, strict=True):
                owner = np.minimum(np.floor(c) + 1, size - 1) if self.smooth else np.rint(c)
                inside &= (owner >= first) & (owner < end)
            if inside.any():
                found.append(_BlockPlace(block, inside, [c[inside] for c in coordinates]))
        return found


class _BlockPlace:
    """See `Place`."""

    def __init__(
        self, box: Box, inside: NDArray[np.bool_], coordinates: Sequence[NDArray[np.float64]]
    ) -> None:
        self.box, self._inside, self._coordinates = box, inside, coordinates

    def nearest(self, values: NDArray[Any], start: Sequence[int]) -> SampledBox | None:
        index = tuple(np.rint(c).astype(np.intp) - s for c, s in zip(self._coordinates, start, strict=True))
        return self._spread(values[index])

    def linear(self, logits: NDArray[np.float32], start: Sequence[int]) -> SampledBox | None:
        relative = [c - s for c, s in zip(self._coordinates, start, strict=True)]
        return self._spread(trilinear(logits, relative))

    def _spread(self, values: NDArray[Any]) -> SampledBox | None:
        if not (values > 0).any():
            return None
        out = np.zeros(self._inside.shape, dtype=values.dtype)
        out[self._inside] = values
        return SampledBox(self.box, out)
