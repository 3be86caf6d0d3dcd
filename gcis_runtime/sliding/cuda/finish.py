"""What becomes of finished rows on the GPU: labels or logits on the network's grid, or labels on the file's.

Labels on the file's grid are those of `sliding.native_grid` bit for bit. A file voxel belongs to the rows
that hold its upper neighbour along the slab axis, so that of earlier rows only the last stays on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.engines.gpu.device import Buffer
from gcis_runtime.grids.box import Box as GridBox
from gcis_runtime.grids.box import whole, with_part
from gcis_runtime.grids.resample import GridMap
from gcis_runtime.sliding.cuda.file_grid import file_grid
from gcis_runtime.sliding.cuda.kernels import Box, Kernels
from gcis_runtime.sliding.cuda.slabs import Group, with_axis
from gcis_runtime.sliding.cuda.workspace import Workspace
from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.spec import Shape3

_PIECE_VOXELS = 1 << 25
"""File voxels that one launch labels: at 0.8 mm a slab has 125 times the voxels of a 4 mm network's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Part of what a group of windows finishes.

    Attributes:
        box: Where it lies on the grid on which values come back; may be empty.
        bytes: Its size.
        launch: Queues the kernel that writes it into a buffer.
    """

    box: GridBox
    bytes: int
    launch: Callable[[Buffer], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Slab:
    """Finished values on the host.

    Attributes:
        box: Where they lie: on the padded network grid, or on the re-oriented file grid.
        data: Labels (X, Y, Z), or logits (C, X, Y, Z); valid until the next slab.
    """

    box: GridBox
    data: NDArray[Any]


class Finish(Protocol):
    """Turns finished sums into what comes back; made for one volume.

    Attributes:
        count: Channels that are blended.
        kept: Rows of logits that stay among the sums after they were finished.
        piece_bytes: Size of the largest piece.
        dtype: Type of a value that comes back.
    """

    count: int
    kept: int
    piece_bytes: int
    dtype: np.dtype[Any]

    def prepare(self, work: Workspace, kernels: Kernels, stream: Any) -> None:
        """Take buffers and send tables to the device; `stream` is where kernels are queued."""
        ...

    def pieces(self, group: Group) -> Iterator[Piece]:
        """Give what a group finishes, at least one piece; each is launched before the next is asked for."""
        ...

    def slabs(self, group: Group, piece: Piece, data: NDArray[Any]) -> Iterator[Slab]:
        """Give what came back of a piece (its bytes, uint8), and what around it needed no computing."""
        ...


class GridFinish:
    """Labels or logits on the padded network grid; slabs cover it once, in order. See `Finish`.

    Args:
        plan: Window positions.
        groups: The plan's windows by first row.
        values: Label value of each channel.
        logits: Give logits instead of labels.
    """

    kept = 0

    def __init__(
        self, plan: WindowPlan, groups: Sequence[Group], *, values: tuple[int, ...], logits: bool
    ) -> None:
        self._plan, self._values, self._logits, self.count = plan, values, logits, len(values)
        self.dtype = np.dtype(np.float32) if logits else _label_type(values)
        ready = max((group.ready for group in groups), default=0)
        self.piece_bytes = self._bytes(self._shape(ready))

    def prepare(self, work: Workspace, kernels: Kernels, stream: Any) -> None:
        """See `Finish.prepare`."""
        self._work, self._kernels, self._stream = work, kernels, stream
        self._table = work.send(np.array(self._values, dtype=np.int32))

    def pieces(self, group: Group) -> Iterator[Piece]:
        """See `Finish.pieces`."""
        box = self._rows(group.first, group.first + group.ready)
        yield Piece(box=box, bytes=self._bytes(self._shape(group.ready)), launch=partial(self._launch, group))

    def slabs(self, group: Group, piece: Piece, data: NDArray[Any]) -> Iterator[Slab]:
        """See `Finish.slabs`."""
        if group.number == 0 and group.first > 0:
            yield self._empty(0, group.first)
        yield Slab(box=piece.box, data=data.view(self.dtype).reshape(self._shape(group.ready)))
        if group.first + group.ready < group.end:
            yield self._empty(group.first + group.ready, group.end)

    def _launch(self, group: Group, out: Buffer) -> None:
        work, shape = self._work, with_axis(self._plan.padded, self._plan.axis, group.ready)
        box = _in_sums(work, self._plan, group.first, group.ready)
        if self._logits:
            target = Box(buffer=shape, start=(0, 0, 0), shape=shape)
            self._kernels.finish_logits(
                work.total, work.norm, out, box, target, count=self.count, stream=self._stream
            )
        else:
            self._kernels.finish_labels(
                work.total, work.norm, self._table, out, box,
                wide=self.dtype == np.uint16, count=self.count, stream=self._stream,
            )  # fmt: skip

    def _rows(self, first: int, stop: int) -> GridBox:
        return with_part(whole(self._plan.padded), self._plan.axis, slice(first, stop))

    def _empty(self, first: int, stop: int) -> Slab:
        zeros = np.broadcast_to(self.dtype.type(0), self._shape(stop - first))
        return Slab(box=self._rows(first, stop), data=zeros)

    def _shape(self, rows: int) -> tuple[int, ...]:
        shape = with_axis(self._plan.padded, self._plan.axis, rows)
        return (self.count, *shape) if self._logits else shape

    def _bytes(self, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize


class FileFinish:
    """Labels on the file's grid from interpolated logits; what no slab covers is background. See `Finish`.

    Finished sums become logits where they are, and are cleared when the labels that need them are queued.

    Args:
        plan: Window positions.
        groups: The plan's windows by first row.
        grid: From file voxels to network voxels.
        values: Label value of each channel.
    """

    kept = 1

    def __init__(
        self, plan: WindowPlan, groups: Sequence[Group], *, grid: GridMap, values: tuple[int, ...]
    ) -> None:
        self._plan, self._shape, self._values, self.count = plan, grid.shape_out, values, len(values)
        self._grid = file_grid(grid, plan)
        self.dtype = _label_type(values)
        boxes = (box for group in groups for rows in _decided(group) for box in self._boxes(*rows))
        self.piece_bytes = max(map(self._bytes, boxes), default=0)

    def prepare(self, work: Workspace, kernels: Kernels, stream: Any) -> None:
        """See `Finish.prepare`."""
        self._work, self._kernels, self._stream = work, kernels, stream
        self._grid.send(work)
        self._table = work.send(np.array(self._values, dtype=np.int32))

    def pieces(self, group: Group) -> Iterator[Piece]:
        """See `Finish.pieces`."""
        self._settle(group.first, group.ready)
        before = group.first
        for first, stop in _decided(group):
            for box in self._boxes(first, stop):
                launch = partial(self._launch, box, first, stop)
                yield Piece(box=box, bytes=self._bytes(box), launch=launch)
            # All but the last row have served. Their weights are zero by now: settling makes them zero, and
            # with the first of them the row at which a gap begins: both have the same place in the ring.
            self._settle(before - 1, stop - before)
            before = stop

    def slabs(self, group: Group, piece: Piece, data: NDArray[Any]) -> Iterator[Slab]:
        """See `Finish.slabs`."""
        if piece.bytes:
            yield Slab(box=piece.box, data=data.view(self.dtype).reshape(_extent(piece.box)))

    def _settle(self, first: int, rows: int) -> None:
        """Divide rows of sums by their weights, in place."""
        work, box = self._work, _in_sums(self._work, self._plan, first, rows)
        self._kernels.finish_logits(
            work.total, work.norm, work.total, box, box, count=self.count, stream=self._stream
        )

    def _launch(self, box: GridBox, first: int, stop: int, out: Buffer) -> None:
        x, y, z = (part.start for part in box)
        self._grid.launch(
            self._kernels, self._work, out, Box(buffer=self._shape, start=(x, y, z), shape=_extent(box)),
            decided=(first, stop), values=self._table,
            wide=self.dtype == np.uint16, count=self.count, stream=self._stream,
        )  # fmt: skip

    def _boxes(self, first: int, stop: int) -> list[GridBox]:
        """Return boxes of at most about `_PIECE_VOXELS` that hold the file voxels which some rows decide."""
        axis = self._plan.axis
        box = with_part(whole(self._shape), axis, self._grid.rows(first, stop))
        return _cut(box, (axis, *self._plan.across), _PIECE_VOXELS)

    def _bytes(self, box: GridBox) -> int:
        return int(np.prod(_extent(box), dtype=np.int64)) * self.dtype.itemsize


def _decided(group: Group) -> list[tuple[int, int]]:
    """Return the rows whose file voxels a group decides: its own, and the first of a gap that follows.

    Voxels before the gap's first row lie between logits and zero; those behind it, in nothing.
    """
    stop = group.first + group.ready
    return [(group.first, stop), *([(stop, stop + 1)] if stop < group.end else [])]


def _in_sums(work: Workspace, plan: WindowPlan, first: int, rows: int) -> Box:
    """Return the part of the sums' ring in which rows of the padded grid lie."""
    start = with_axis((0, 0, 0), plan.axis, first % work.sums[plan.axis])
    return Box(buffer=work.sums, start=start, shape=with_axis(plan.padded, plan.axis, rows))


def _cut(box: GridBox, axes: Sequence[int], most: int) -> list[GridBox]:
    """Cut a box along the first axis, and along the next where one row has more voxels than `most`."""
    axis, *others = axes
    part = box[axis]
    face = int(np.prod([n for a, n in enumerate(_extent(box)) if a != axis], dtype=np.int64))
    step = max(1, most // max(1, face))
    cuts = range(part.start, max(part.stop, part.start + 1), step)
    boxes = [with_part(box, axis, slice(first, min(first + step, part.stop))) for first in cuts]
    if face > most and others:
        return [piece for row in boxes for piece in _cut(row, others, most)]
    return boxes


def _extent(box: GridBox) -> Shape3:
    x, y, z = (part.stop - part.start for part in box)
    return x, y, z


def _label_type(values: tuple[int, ...]) -> np.dtype[Any]:
    return np.dtype(np.uint8 if max(values) <= 255 else np.uint16)
