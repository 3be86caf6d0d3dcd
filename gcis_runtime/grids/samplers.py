"""Which voxels of the file's grid a tile of the network's grid decides, and their values.

Two samplers offer the same: `AxisSampler` where the grids share directions, `BlockSampler` for the rest
(gantry tilt, rounding noise that decides ties). Boxes and starts are (X, Y, Z) of the re-oriented grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.grids.box import Box, positive_box
from gcis_runtime.grids.resample import GridMap, axis_coordinates, general_coordinates, lerp_axis, trilinear

_BLOCK = 48
"""Edge of the blocks that the file's grid is cut into; coordinates cost 24 bytes a voxel of a block."""

_PLACE_VOXELS = 1 << 22
"""A coarse network's tile covers much of the file's grid: without a limit its logits there took 0.5 GB."""

Found = tuple[Box, NDArray[Any]]
"""A box of the file's grid and its values; zero where a voxel belongs to another tile."""


class Place(Protocol):
    """File voxels that one tile decides."""

    @property
    def box(self) -> Box:
        """Part of the file's grid that holds them."""
        ...

    def nearest(self, values: NDArray[Any], start: Sequence[int]) -> Found | None:
        """Take each voxel's nearest value.

        Args:
            values: Labels or a mask of the tile.
            start: First index of the tile.

        Returns:
            Where values are positive; None where none is.
        """
        ...

    def linear(self, logits: NDArray[np.float32], start: Sequence[int]) -> Found | None:
        """Interpolate logits.

        Args:
            logits: The tile with one plane and row of the tiles before it.
            start: First index of `logits`.

        Returns:
            Where logits may be positive; None where none can be.
        """
        ...


class AxisSampler:
    """File voxels by axis: each axis of the file's grid has its own coordinates.

    Args:
        grid: From file voxels to network voxels.
        smooth: Whether `linear` will be asked, or `nearest`.
    """

    def __init__(self, grid: GridMap, *, smooth: bool) -> None:
        self.order = grid.cheapest_order()
        self.position = [axis_coordinates(grid, axis) for axis in range(3)]
        self.low, self.high = [], []
        for position, size in zip(self.position, grid.shape_in, strict=True):
            low = np.floor(position) if smooth else np.rint(position)
            self.low.append(low.astype(np.intp))
            self.high.append(np.minimum(low + int(smooth), size - 1).astype(np.intp))

    def places(self, start: Sequence[int], shape: Sequence[int]) -> list[Place]:
        """Return the voxels that a tile decides: none, or boxes of at most about `_PLACE_VOXELS`."""
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

    def nearest(self, values: NDArray[Any], start: Sequence[int]) -> Found | None:
        box = self._within(values, start)
        if box is None:
            return None
        for axis in self._sampler.order:
            index = self._sampler.low[axis][box[axis]] - start[axis]
            values = values.take(index, axis=axis)
        return box, values

    def linear(self, logits: NDArray[np.float32], start: Sequence[int]) -> Found | None:
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
        return box, values

    def _within(self, values: NDArray[Any], start: Sequence[int]) -> Box | None:
        """Return the part of this place that depends on a positive value."""
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
    """File voxels by blocks: each voxel has its own coordinates.

    Args:
        grid: From file voxels to network voxels.
        smooth: Whether `linear` will be asked, or `nearest`.
    """

    def __init__(self, grid: GridMap, *, smooth: bool) -> None:
        self.grid, self.smooth = grid, smooth
        cuts = [[slice(i, min(i + _BLOCK, n)) for i in range(0, n, _BLOCK)] for n in grid.shape_out]
        self._blocks: list[Box] = [(x, y, z) for x in cuts[0] for y in cuts[1] for z in cuts[2]]
        ends = np.array([[(part.start, part.stop - 1) for part in block] for block in self._blocks])
        corners = np.stack([ends[:, (0, 1, 2), c] for c in np.ndindex(2, 2, 2)], axis=1)
        where = corners @ grid.matrix[:3, :3].T + grid.matrix[:3, 3]
        where = np.clip(where, 0, np.array(grid.shape_in) - 1)
        # A voxel of slack on either side: which voxels a tile decides is worked out exactly below.
        self._first, self._last = where.min(axis=1) - 1, where.max(axis=1) + 2

    def places(self, start: Sequence[int], shape: Sequence[int]) -> list[Place]:
        """Return the blocks with voxels that a tile decides."""
        stop = np.add(start, shape)
        near = (self._first < stop).all(axis=1) & (self._last >= start).all(axis=1)
        found: list[Place] = []
        for number in np.flatnonzero(near):
            block = self._blocks[number]
            coordinates = general_coordinates(self.grid, block)
            mine = np.ones(coordinates[0].shape, dtype=np.bool_)
            for c, first, end, size in zip(coordinates, start, stop, self.grid.shape_in, strict=True):
                owner = np.minimum(np.floor(c) + 1, size - 1) if self.smooth else np.rint(c)
                mine &= (owner >= first) & (owner < end)
            if mine.any():
                found.append(_BlockPlace(block, mine, [c[mine] for c in coordinates]))
        return found


class _BlockPlace:
    """See `Place`."""

    def __init__(self, box: Box, mine: NDArray[np.bool_], coordinates: Sequence[NDArray[np.float64]]) -> None:
        self.box, self._mine, self._coordinates = box, mine, coordinates

    def nearest(self, values: NDArray[Any], start: Sequence[int]) -> Found | None:
        index = tuple(np.rint(c).astype(np.intp) - s for c, s in zip(self._coordinates, start, strict=True))
        return self._spread(values[index])

    def linear(self, logits: NDArray[np.float32], start: Sequence[int]) -> Found | None:
        inside = [c - s for c, s in zip(self._coordinates, start, strict=True)]
        return self._spread(trilinear(logits, inside))

    def _spread(self, values: NDArray[Any]) -> Found | None:
        if not (values > 0).any():
            return None
        out = np.zeros(self._mine.shape, dtype=values.dtype)
        out[self._mine] = values
        return self.box, out
