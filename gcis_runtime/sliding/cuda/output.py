"""Convert finished sums on the GPU to labels or logits on the network grid, or to labels on the native grid.

Labels on the native grid equal those of `sliding.native_grid` bit for bit. A voxel of the file is labelled
with the slab that holds its upper neighbour along the slab axis, so that only the last plane of earlier slabs
is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.engines.gpu.device import Buffer
from gcis_runtime.grids.box import Box, box_shape, whole, with_length, with_part
from gcis_runtime.grids.resample import GridMap
from gcis_runtime.sliding.cuda.file_grid import file_grid
from gcis_runtime.sliding.cuda.kernels import Kernels
from gcis_runtime.sliding.cuda.ring_box import RingBox
from gcis_runtime.sliding.cuda.workspace import Workspace
from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.sliding.schedule import Schedule, Slab
from gcis_runtime.spec import label_dtype

_CHUNK_VOXELS = 1 << 25
"""Voxels of the file per kernel launch: a slab at 0.8 mm has 125 times the voxels of one at 4 mm."""
_INT32_BYTES = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputChunk:
    """Part of the output of a slab that is computed and copied in one step.

    Attributes:
        box: Box of the chunk on the padded network grid or on the reoriented file grid; may be empty.
        bytes: Size of the chunk.
        launch: Queues the kernel that writes the chunk into a buffer.
    """

    box: Box
    bytes: int
    launch: Callable[[Buffer], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputBlock:
    """Labels or logits on the host.

    Attributes:
        box: Box of the values on the padded network grid or on the reoriented file grid.
        data: Labels (X, Y, Z), or logits (C, X, Y, Z); valid until the next block.
    """

    box: Box
    data: NDArray[Any]


class SlabOutput(Protocol):
    """Conversion of the finished sums of each slab, made for one volume.

    Attributes:
        count: Number of blended channels.
        kept_planes: Finished planes of logits that stay in the sums until the next slab.
        chunk_bytes: Bytes of the largest chunk.
        table_bytes: Bytes of the tables that `prepare` sends to the device.
        dtype: Type of the values.
    """

    count: int
    kept_planes: int
    chunk_bytes: int
    table_bytes: int
    dtype: np.dtype[Any]

    def prepare(self, work: Workspace, kernels: Kernels, stream: Any) -> None:
        """Set the workspace and send tables to the device.

        Args:
            work: Memory of the blender.
            kernels: The compiled kernels.
            stream: Stream in which kernels are queued.
        """
        ...

    def chunks(self, slab: Slab) -> Iterator[OutputChunk]:
        """Yield the output of a slab in at least one chunk. Launch each chunk before taking the next."""
        ...

    def blocks(self, slab: Slab, chunk: OutputChunk, data: NDArray[Any]) -> Iterator[OutputBlock]:
        """Yield the values of a chunk, and those of planes without windows around it.

        Args:
            slab: The slab.
            chunk: The chunk.
            data: Its bytes on the host, (bytes,) uint8.
        """
        ...


class NetworkGridOutput:
    """Labels or logits on the padded network grid; blocks cover it exactly once, in order. See `SlabOutput`.

    Args:
        schedule: The schedule of the windows.
        values: Label value of each channel.
        logits: Return logits instead of labels.
    """

    kept_planes = 0

    def __init__(self, schedule: Schedule, *, values: tuple[int, ...], logits: bool) -> None:
        self._plan, self._values, self._logits, self.count = schedule.plan, values, logits, len(values)
        self.dtype = np.dtype(np.float32) if logits else np.dtype(label_dtype(max(values)))
        self.chunk_bytes = self._bytes(self._shape(schedule.finished_planes))
        self.table_bytes = _INT32_BYTES * self.count

    def prepare(self, work: Workspace, kernels: Kernels, stream: Any) -> None:
        """See `SlabOutput.prepare`."""
        self._work, self._kernels, self._stream = work, kernels, stream
        self._table = work.send(np.array(self._values, dtype=np.int32))

    def chunks(self, slab: Slab) -> Iterator[OutputChunk]:
        """See `SlabOutput.chunks`."""
        box = self._planes(slab.first, slab.first + slab.finished)
        size = self._bytes(self._shape(slab.finished))
        yield OutputChunk(box=box, bytes=size, launch=partial(self._launch, slab))

    def blocks(self, slab: Slab, chunk: OutputChunk, data: NDArray[Any]) -> Iterator[OutputBlock]:
        """See `SlabOutput.blocks`."""
        if slab.number == 0 and slab.first > 0:
            yield self._empty(0, slab.first)
        yield OutputBlock(box=chunk.box, data=data.view(self.dtype).reshape(self._shape(slab.finished)))
        if slab.first + slab.finished < slab.end:
            yield self._empty(slab.first + slab.finished, slab.end)

    def _launch(self, slab: Slab, out: Buffer) -> None:
        work, shape = self._work, with_length(self._plan.padded, self._plan.axis, slab.finished)
        box = _in_sums(work, self._plan, slab.first, slab.finished)
        if self._logits:
            target = RingBox(ring=shape, start=(0, 0, 0), shape=shape)
            self._kernels.finish_logits(
                work.total, work.norm, out, box, target, count=self.count, stream=self._stream
            )
        else:
            self._kernels.finish_labels(
                work.total, work.norm, self._table, out, box,
                wide=self.dtype == np.uint16, count=self.count, stream=self._stream,
            )  # fmt: skip

    def _planes(self, first: int, stop: int) -> Box:
        return with_part(whole(self._plan.padded), self._plan.axis, slice(first, stop))

    def _empty(self, first: int, stop: int) -> OutputBlock:
        zeros = np.broadcast_to(self.dtype.type(0), self._shape(stop - first))
        return OutputBlock(box=self._planes(first, stop), data=zeros)

    def _shape(self, planes: int) -> tuple[int, ...]:
        shape = with_length(self._plan.padded, self._plan.axis, planes)
        return (self.count, *shape) if self._logits else shape

    def _bytes(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * self.dtype.itemsize


class NativeGridOutput:
    """Labels on the native grid from interpolated logits; other voxels are background. See `SlabOutput`.

    Finished sums are converted to logits in place, and cleared once the labels that depend on them are
    queued.

    Args:
        schedule: The schedule of the windows.
        grid: Map from file voxels to network voxels.
        values: Label value of each channel.
    """

    kept_planes = 1

    def __init__(self, schedule: Schedule, *, grid: GridMap, values: tuple[int, ...]) -> None:
        self._plan, self._shape, self._values = schedule.plan, grid.shape_out, values
        self.count = len(values)
        self._grid = file_grid(grid, schedule.plan)
        self.dtype = np.dtype(label_dtype(max(values)))
        boxes = (
            box for slab in schedule.slabs for planes in _determined(slab) for box in self._boxes(*planes)
        )
        self.chunk_bytes = max(map(self._bytes, boxes), default=0)
        self.table_bytes = _INT32_BYTES * self.count + self._grid.table_bytes

    def prepare(self, work: Workspace, kernels: Kernels, stream: Any) -> None:
        """See `SlabOutput.prepare`."""
        self._work, self._kernels, self._stream = work, kernels, stream
        self._grid.send(work)
        self._table = work.send(np.array(self._values, dtype=np.int32))

    def chunks(self, slab: Slab) -> Iterator[OutputChunk]:
        """See `SlabOutput.chunks`."""
        self._divide(slab.first, slab.finished)
        before = slab.first
        for first, stop in _determined(slab):
            for box in self._boxes(first, stop):
                launch = partial(self._launch, box, first, stop)
                yield OutputChunk(box=box, bytes=self._bytes(box), launch=launch)
            # All planes but the last are no longer needed. Their weights are zero by now, so that dividing
            # again clears them, and with the first of them the plane at which a gap begins: both share a ring
            # index.
            self._divide(before - 1, stop - before)
            before = stop

    def blocks(self, slab: Slab, chunk: OutputChunk, data: NDArray[Any]) -> Iterator[OutputBlock]:
        """See `SlabOutput.blocks`."""
        if chunk.bytes:
            yield OutputBlock(box=chunk.box, data=data.view(self.dtype).reshape(box_shape(chunk.box)))

    def _divide(self, first: int, planes: int) -> None:
        """Divide planes of sums by their weights, in place."""
        work, box = self._work, _in_sums(self._work, self._plan, first, planes)
        self._kernels.finish_logits(
            work.total, work.norm, work.total, box, box, count=self.count, stream=self._stream
        )

    def _launch(self, box: Box, first: int, stop: int, out: Buffer) -> None:
        x, y, z = (part.start for part in box)
        self._grid.launch(
            self._kernels, self._work, out, RingBox(ring=self._shape, start=(x, y, z), shape=box_shape(box)),
            planes=(first, stop), values=self._table,
            wide=self.dtype == np.uint16, count=self.count, stream=self._stream,
        )  # fmt: skip

    def _boxes(self, first: int, stop: int) -> list[Box]:
        """Return boxes of at most about `_CHUNK_VOXELS` with the file voxels that planes determine."""
        axis = self._plan.axis
        box = with_part(whole(self._shape), axis, self._grid.file_planes(first, stop))
        return _split(box, (axis, *self._plan.across), _CHUNK_VOXELS)

    def _bytes(self, box: Box) -> int:
        return math.prod(box_shape(box)) * self.dtype.itemsize


def _determined(slab: Slab) -> list[tuple[int, int]]:
    """Return the planes whose file voxels a slab determines: its own, and the first of a gap after it.

    File voxels just before the first plane of a gap lie between logits and zero; those behind it are
    background.
    """
    stop = slab.first + slab.finished
    return [(slab.first, stop), *([(stop, stop + 1)] if stop < slab.end else [])]


def _in_sums(work: Workspace, plan: WindowPlan, first: int, planes: int) -> RingBox:
    """Return the part of the ring buffer of the sums that holds planes of the padded grid."""
    start = with_length((0, 0, 0), plan.axis, first % work.sum_ring[plan.axis])
    return RingBox(ring=work.sum_ring, start=start, shape=with_length(plan.padded, plan.axis, planes))


def _split(box: Box, axes: Sequence[int], most: int) -> list[Box]:
    """Split a box along the first axis, and along the next one if a plane exceeds `most` voxels."""
    axis, *others = axes
    part = box[axis]
    face = math.prod(n for a, n in enumerate(box_shape(box)) if a != axis)
    step = max(1, most // max(1, face))
    firsts = range(part.start, max(part.stop, part.start + 1), step)
    boxes = [with_part(box, axis, slice(first, min(first + step, part.stop))) for first in firsts]
    if face > most and others:
        return [piece for plane in boxes for piece in _split(plane, others, most)]
    return boxes
