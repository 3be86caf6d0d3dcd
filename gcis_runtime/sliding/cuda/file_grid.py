"""How each voxel of the file's grid finds its logits on the GPU: tables that the kernels read.

The counterpart of `gcis_runtime.grids.samplers`, whose arithmetic both follow step by step.
"""

from __future__ import annotations

from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.engines.gpu.device import Buffer
from gcis_runtime.grids.resample import GridMap, general_coordinates, unit_axis, unit_matrix
from gcis_runtime.grids.samplers import AxisSampler
from gcis_runtime.sliding.cuda.kernels import Box, Kernels
from gcis_runtime.sliding.cuda.workspace import Workspace
from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.spec import Shape3

_SLACK = 1e-6
"""Voxels by which rounding may move a coordinate, and far more than it does."""


class FileGrid(Protocol):
    """The file's grid, re-oriented, as kernels see it."""

    def rows(self, first: int, stop: int) -> slice:
        """Return the file's rows along the slab axis that hold every voxel which some rows decide.

        Args:
            first: First of these rows, on the padded network grid.
            stop: Their end.
        """
        ...

    def send(self, work: Workspace) -> None:
        """Put the tables on the device."""
        ...

    def launch(
        self, kernels: Kernels, work: Workspace, out: Buffer, part: Box, *, decided: tuple[int, int],
        values: Buffer, wide: bool, count: int, stream: Any,
    ) -> None:  # fmt: skip
        """Queue the labelling of a part of `rows`.

        Args:
            kernels: Our kernels.
            work: Where finished logits lie: those of the rows, and of the one before.
            out: Labels of the part.
            part: Which part of the file's grid.
            decided: First and end of the rows, on the padded network grid.
            values: Label value of each channel, int32.
            wide: Labels above 255.
            count: Channels.
            stream: Where it is queued.
        """
        ...


def file_grid(grid: GridMap, plan: WindowPlan) -> FileGrid:
    """Return the form for a grid: by axis where it shares directions with the network's.

    Args:
        grid: From file voxels to network voxels.
        plan: How the network's grid is padded, and its slab axis.
    """
    return AxisGrid(grid, plan) if grid.separable else ShearedGrid(grid, plan)


class AxisGrid:
    """A file's grid that shares its directions with the network's; see `FileGrid`."""

    def __init__(self, grid: GridMap, plan: WindowPlan) -> None:
        self._sampler, self._plan = AxisSampler(grid, smooth=True), plan

    def rows(self, first: int, stop: int) -> slice:
        """See `FileGrid.rows`: just the voxels that are decided."""
        axis, before = self._plan.axis, self._plan.before
        begin, end = np.searchsorted(self._sampler.high[axis], (first - before[axis], stop - before[axis]))
        return slice(int(begin), int(end))

    def send(self, work: Workspace) -> None:
        """See `FileGrid.send`."""
        sampler, ring = self._sampler, work.sums
        shares = [
            (at - low).astype(np.float32) for at, low in zip(sampler.position, sampler.low, strict=True)
        ]
        self._tables = [
            work.send(self._offsets(sampler.low, ring)),
            work.send(self._offsets(sampler.high, ring)),
            work.send(np.concatenate(shares)),
        ]

    def _offsets(self, index: list[NDArray[np.intp]], ring: Shape3) -> NDArray[np.int64]:
        """Return where network voxels lie in a ring, counted in floats, x, y and z after each other."""
        strides = (ring[1] * ring[2], ring[2], 1)
        return np.concatenate(
            [
                (i.astype(np.int64) + before) % length * stride
                for i, before, length, stride in zip(index, self._plan.before, ring, strides, strict=True)
            ]
        )

    def launch(
        self, kernels: Kernels, work: Workspace, out: Buffer, part: Box, *, decided: tuple[int, int],
        values: Buffer, wide: bool, count: int, stream: Any,
    ) -> None:  # fmt: skip
        """See `FileGrid.launch`."""
        kernels.restore_axes(
            work.total, out, part, tables=[*self._tables, values], ring=work.sums, order=self._sampler.order,
            wide=wide, count=count, stream=stream,
        )  # fmt: skip


class ShearedGrid:
    """A file's grid of directions of its own (gantry tilt); see `FileGrid`."""

    def __init__(self, grid: GridMap, plan: WindowPlan) -> None:
        self._grid, self._plan = grid, plan
        axis, shape = plan.axis, grid.shape_out
        # Coordinates are linear, so that those of a row of the file's grid lie between those of its corners.
        x, y, z = (
            [slice(0, n)] if a == axis else [slice(0, 1), slice(n - 1, n)] for a, n in enumerate(shape)
        )
        corners = np.stack([general_coordinates(grid, box)[axis].ravel() for box in product(x, y, z)])
        last = grid.shape_in[axis] - 1
        self._least = np.minimum(np.floor(corners.min(axis=0) - _SLACK) + 1, last) + plan.before[axis]
        self._most = np.minimum(np.floor(corners.max(axis=0) + _SLACK) + 1, last) + plan.before[axis]

    def rows(self, first: int, stop: int) -> slice:
        """See `FileGrid.rows`: also voxels that other rows decide, which become 0."""
        found = np.flatnonzero((self._least < stop) & (self._most >= first))
        return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)

    def send(self, work: Workspace) -> None:
        """See `FileGrid.send`."""
        places = np.concatenate([unit_axis(n) for n in self._grid.shape_out])
        self._tables = [work.send(places), work.send(np.ascontiguousarray(unit_matrix(self._grid)[:3]))]

    def launch(
        self, kernels: Kernels, work: Workspace, out: Buffer, part: Box, *, decided: tuple[int, int],
        values: Buffer, wide: bool, count: int, stream: Any,
    ) -> None:  # fmt: skip
        """See `FileGrid.launch`."""
        kernels.restore_sheared(
            work.total, out, part, tables=[*self._tables, values], ring=work.sums,
            grid=self._plan.shape, pad=self._plan.before,
            axis=self._plan.axis, first=decided[0], rows=decided[1] - decided[0],
            wide=wide, count=count, stream=stream,
        )  # fmt: skip
