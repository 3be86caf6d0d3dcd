"""Make tables from which the kernels compute where the logits of each file voxel lie on the GPU.

This is the counterpart of `gcis_runtime.grids.samplers`; the arithmetic of both is the same, step by step.
"""

from __future__ import annotations

from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.engines.gpu.device import Buffer
from gcis_runtime.grids.resample import GridMap, general_coordinates, unit_axis, unit_matrix
from gcis_runtime.grids.samplers import AxisSampler
from gcis_runtime.sliding.cuda.kernels import Kernels
from gcis_runtime.sliding.cuda.ring_box import RingBox
from gcis_runtime.sliding.cuda.workspace import Workspace
from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.spec import Shape3

_SLACK = 1e-6
"""Upper bound in voxels of the rounding error of a coordinate."""


class FileGrid(Protocol):
    """Reoriented file grid as tables for the kernels.

    Attributes:
        table_bytes: Bytes of the tables on the device.
    """

    table_bytes: int

    def file_planes(self, first: int, stop: int) -> slice:
        """Return the planes of the file grid that hold every voxel determined by planes of the network grid.

        Args:
            first: First plane along the slab axis of the padded network grid.
            stop: End of these planes.
        """
        ...

    def send(self, work: Workspace) -> None:
        """Send the tables to the device."""
        ...

    def launch(
        self, kernels: Kernels, work: Workspace, out: Buffer, part: RingBox, *, planes: tuple[int, int],
        values: Buffer, wide: bool, count: int, stream: Any,
    ) -> None:  # fmt: skip
        """Queue the labelling of a part of `file_planes`.

        Args:
            kernels: The compiled kernels.
            work: Workspace with the finished logits of the network planes and of the plane before them.
            out: Output buffer for the labels of the part.
            part: Part of the file grid.
            planes: First plane and end of the network planes, on the padded network grid.
            values: Label value of each channel, int32.
            wide: Write uint16 labels; otherwise uint8.
            count: Number of channels.
            stream: Stream in which the kernel is queued.
        """
        ...


def file_grid(grid: GridMap, plan: WindowPlan) -> FileGrid:
    """Return an `AxisGrid` if the file and network grids have the same directions, else a `ShearedGrid`.

    Args:
        grid: Map from file voxels to network voxels.
        plan: Window plan, with the padding of the network grid and the slab axis.
    """
    return AxisGrid(grid, plan) if grid.separable else ShearedGrid(grid, plan)


class AxisGrid:
    """File grid with the directions of the network grid; see `FileGrid`."""

    def __init__(self, grid: GridMap, plan: WindowPlan) -> None:
        self._sampler, self._plan = AxisSampler(grid, smooth=True), plan
        self.table_bytes = (8 + 8 + 4) * sum(grid.shape_out)  # two offsets (int64) and a weight (float32)

    def file_planes(self, first: int, stop: int) -> slice:
        """See `FileGrid.file_planes`: exactly the planes of these voxels."""
        axis, before = self._plan.axis, self._plan.before
        begin, end = np.searchsorted(self._sampler.high[axis], (first - before[axis], stop - before[axis]))
        return slice(int(begin), int(end))

    def send(self, work: Workspace) -> None:
        """See `FileGrid.send`."""
        sampler, ring = self._sampler, work.sum_ring
        weights = [
            (at - low).astype(np.float32) for at, low in zip(sampler.position, sampler.low, strict=True)
        ]
        self._tables = [
            work.send(self._offsets(sampler.low, ring)),
            work.send(self._offsets(sampler.high, ring)),
            work.send(np.concatenate(weights)),
        ]

    def _offsets(self, index: list[NDArray[np.intp]], ring: Shape3) -> NDArray[np.int64]:
        """Return the offsets of network voxels in a ring buffer, in floats: along x, then y, then z."""
        strides = (ring[1] * ring[2], ring[2], 1)
        return np.concatenate(
            [
                (i.astype(np.int64) + before) % length * stride
                for i, before, length, stride in zip(index, self._plan.before, ring, strides, strict=True)
            ]
        )

    def launch(
        self, kernels: Kernels, work: Workspace, out: Buffer, part: RingBox, *, planes: tuple[int, int],
        values: Buffer, wide: bool, count: int, stream: Any,
    ) -> None:  # fmt: skip
        """See `FileGrid.launch`."""
        kernels.resample_separable(
            work.total, out, part, tables=[*self._tables, values], ring=work.sum_ring,
            order=self._sampler.order, wide=wide, count=count, stream=stream,
        )  # fmt: skip


class ShearedGrid:
    """File grid with directions that differ from those of the network grid (gantry tilt); see `FileGrid`."""

    def __init__(self, grid: GridMap, plan: WindowPlan) -> None:
        self._grid, self._plan = grid, plan
        self.table_bytes = 8 * (sum(grid.shape_out) + 3 * 4)  # coordinates and a (3, 4) matrix, float64
        axis, shape = plan.axis, grid.shape_out
        # Coordinates are linear: those of a plane of the file grid lie between those of its corners.
        x, y, z = (
            [slice(0, n)] if a == axis else [slice(0, 1), slice(n - 1, n)] for a, n in enumerate(shape)
        )
        corners = np.stack([general_coordinates(grid, box)[axis].ravel() for box in product(x, y, z)])
        last = grid.shape_in[axis] - 1
        self._least = np.minimum(np.floor(corners.min(axis=0) - _SLACK) + 1, last) + plan.before[axis]
        self._most = np.minimum(np.floor(corners.max(axis=0) + _SLACK) + 1, last) + plan.before[axis]

    def file_planes(self, first: int, stop: int) -> slice:
        """See `FileGrid.file_planes`: includes voxels of other network planes, which become 0."""
        found = np.flatnonzero((self._least < stop) & (self._most >= first))
        return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)

    def send(self, work: Workspace) -> None:
        """See `FileGrid.send`."""
        coordinates = np.concatenate([unit_axis(n) for n in self._grid.shape_out])
        self._tables = [work.send(coordinates), work.send(np.ascontiguousarray(unit_matrix(self._grid)[:3]))]

    def launch(
        self, kernels: Kernels, work: Workspace, out: Buffer, part: RingBox, *, planes: tuple[int, int],
        values: Buffer, wide: bool, count: int, stream: Any,
    ) -> None:  # fmt: skip
        """See `FileGrid.launch`."""
        kernels.resample_sheared(
            work.total, out, part, tables=[*self._tables, values], ring=work.sum_ring,
            grid=self._plan.shape, pad=self._plan.before,
            axis=self._plan.axis, first=planes[0], planes=planes[1] - planes[0],
            wide=wide, count=count, stream=stream,
        )  # fmt: skip
