"""Blending on the GPU: windows are cut, run, added up and turned into labels there; only labels come back.

The counterpart of `gcis_runtime.blend` for a session on a GPU, and equal to it bit for bit for equal margins. The sums are a
ring one window deep along the slab axis. Two streams work side by side: *compute* cuts windows, runs the network
and adds up; *copy* brings the rows of the next windows in and finished labels out. Events order them where they touch the same
memory:

    copy     rows 1 | rows 2      | labels 0, rows 3      | labels 1, rows 4 ...
    compute         | windows 1   | windows 2             | windows 3 ...

The CPU only prepares: it copies the next rows to page-locked memory while the GPU computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.blend import WindowCount, constant_value
from gcis_runtime.cuda.device import Buffer, Pinned
from gcis_runtime.cuda.kernels import Box, Kernels
from gcis_runtime.errors import EngineError
from gcis_runtime.sessions.base import DeviceSession
from gcis_runtime.spec import Shape3
from gcis_runtime.windows import WindowPlan

_FLOAT = 4
_REMEMBERED = 8
"""Constant windows kept on the device, as on the CPU."""


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Windows that begin at one row of the slab axis.

    Attributes:
        first: Their first row.
        end: First row of the next group: rows before it are finished after this one.
        starts: Where they begin.
    """

    first: int
    end: int
    starts: tuple[Shape3, ...]


class GpuBlender:
    """One volume's blending on a GPU. Use once, in one thread; `close` frees its memory, not the session's."""

    def __init__(
        self,
        session: DeviceSession,
        kernels: Kernels,
        plan: WindowPlan,
        weights: NDArray[np.float32],
        *,
        channels: tuple[int, ...],
        values: tuple[int, ...],
    ) -> None:
        """Allocate what one slab needs.

        Args:
            session: The network on the GPU.
            kernels: Our kernels on its device.
            plan: Window positions.
            weights: (X, Y, Z) of `plan.roi`.
            channels: Graph channels to use.
            values: Label value of each of them.

        Raises:
            DeviceMemoryError: The device has not enough memory.
        """
        self._session, self._kernels, self._plan = session, kernels, plan
        self._count, self._wide = len(channels), max(values) > 255
        self._groups = _groups(plan)
        depth, axis = plan.roi[plan.axis], plan.axis
        step = max(group.end - group.first for group in self._groups)
        self._sums = _replace(plan.padded, axis, depth)
        # The rows of the next group come in while this one is read: the image's ring is a step longer.
        self._rows = _replace(plan.padded, axis, depth + step)
        self._slab = int(np.prod(_replace(plan.padded, axis, step), dtype=np.int64))
        self._device = session.gpu
        self._buffers: list[Buffer] = []
        self._pinned: list[Pinned] = []
        try:
            self._allocate(weights, channels, values)
        except BaseException:
            self.close()
            raise

    def _allocate(
        self, weights: NDArray[np.float32], channels: tuple[int, ...], values: tuple[int, ...]
    ) -> None:
        size = int(np.prod(self._sums, dtype=np.int64)) * _FLOAT
        label = 2 if self._wide else 1
        self._copy = self._device.stream()
        self._image = self._new(int(np.prod(self._rows, dtype=np.int64)) * _FLOAT)
        self._total, self._norm = self._new(size * self._count), self._new(size)
        self._labels = [self._new(self._slab * label) for _ in range(2)]
        self._bad = self._new(_FLOAT)
        self._weights = self._send(np.ascontiguousarray(weights, dtype=np.float32))
        self._channels = self._send(np.array(channels, dtype=np.int32))
        self._values = self._send(np.array(values, dtype=np.int32))
        window = int(np.prod(self._plan.roi, dtype=np.int64))
        first = self._plan.roi[self._plan.axis] * (int(np.prod(self._rows, dtype=np.int64)) // self._depth)
        self._staged = [self._pin(max(first, self._slab) * _FLOAT) for _ in range(2)]
        self._answers = [self._pin(self._slab * label) for _ in range(2)]
        self._flag = self._pin(_FLOAT)
        self._window = window
        self._events = {
            name: [self._device.event() for _ in range(2)] for name in ("rows", "used", "slab", "labels")
        }
        self._known: dict[float, Buffer] = {}

    @property
    def _depth(self) -> int:
        """Rows of the image's ring."""
        return self._rows[self._plan.axis]

    def slabs(
        self,
        array: NDArray[np.float32],
        *,
        count: WindowCount | None = None,
        done: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Run every window and give finished slabs of labels.

        Args:
            array: (X, Y, Z) of `plan.padded`, on the host.
            count: Counts windows and those that needed no run.
            done: Called with the number of windows that are finished.

        Yields:
            First index along the slab axis and labels in file order (X, Y, Z), `plan.padded` but for the slab
            axis; valid until the second step after.

        Raises:
            EngineError: The GPU failed, or the network answered with a value that is not finite.
        """
        device, compute = self._device, self._session.stream
        device.activate()
        count = WindowCount() if count is None else count
        for buffer in (self._total, self._norm, self._bad):
            device.zero(buffer, compute)
        finished = 0
        waiting: tuple[int, _Group] | None = None
        self._upload(array, 0)
        for k, group in enumerate(self._groups):
            device.wait(compute, self._events["rows"][k % 2])
            self._run(array, group, count)
            device.record(self._events["used"][k % 2], compute)
            self._finish(k, group)
            if k + 1 < len(self._groups):
                self._upload(array, k + 1)
            self._download(k, group)
            if waiting is not None:
                yield waiting[1].first, self._collect(*waiting)
                finished += len(waiting[1].starts)
                _tell(done, finished)
            waiting = (k, group)
        if waiting is not None:
            yield waiting[1].first, self._collect(*waiting)
            _tell(done, finished + len(waiting[1].starts))

    def close(self) -> None:
        """Free the blender's memory once the device has finished with it. May be called again."""
        self._device.activate()
        for stream in (self._session.stream, getattr(self, "_copy", None)):
            if stream is not None:
                self._device.finish(stream)
        while self._buffers:
            self._device.release(self._buffers.pop())
        while self._pinned:
            self._device.unpin(self._pinned.pop())

    # Rows of the image

    def _upload(self, array: NDArray[np.float32], k: int) -> None:
        """Bring the rows that group `k` needs and the one before did not."""
        axis, event = self._plan.axis, self._events["rows"][k % 2]
        begin = 0 if k == 0 else self._groups[k - 1].first + self._plan.roi[axis]
        end = self._groups[k].first + self._plan.roi[axis]
        if k > 1:
            self._device.synchronize(event)  # the page-locked memory is free again
            # Slots of these rows held rows that only groups before the last one read.
            self._device.wait(self._copy, self._events["used"][k % 2])
        staged = self._staged[k % 2]
        for first, last, offset in _ring_parts(begin, end, self._depth):
            self._upload_part(array, staged, first, last, offset)
        self._device.record(event, self._copy)

    def _upload_part(
        self, array: NDArray[np.float32], staged: Pinned, first: int, last: int, offset: int
    ) -> None:
        """Copy rows [first, last), which lie beside each other in the ring; `offset`: rows staged before."""
        axis, rows = self._plan.axis, np.moveaxis(array, self._plan.axis, 0)[first:last]
        slot, lines = first % self._depth, int(np.prod(self._rows[:axis], dtype=np.int64))
        inner = int(np.prod(self._rows[axis + 1 :], dtype=np.int64))
        view = staged.view((offset + last - first, *rows.shape[1:]), np.float32)
        block = view[offset:].reshape(lines, last - first, inner)
        block[...] = np.moveaxis(rows, 0, axis).reshape(lines, last - first, inner)
        start = staged.address + offset * int(np.prod(rows.shape[1:], dtype=np.int64)) * _FLOAT
        width = (last - first) * inner * _FLOAT
        self._device.upload_lines(
            self._image,
            start,
            width=width,
            lines=lines,
            pitch=self._depth * inner * _FLOAT,
            offset=slot * inner * _FLOAT,
            stream=self._copy,
        )

    # Windows

    def _run(self, array: NDArray[np.float32], group: _Group, count: WindowCount) -> None:
        """Cut, run and add up the windows of a group, in order."""
        pending: list[Shape3] = []
        for start in group.starts:
            count.total += 1
            value = constant_value(array[tuple(slice(s, s + r) for s, r in zip(start, self._plan.roi, strict=True))])
            if value is None:
                pending.append(start)
                if len(pending) == self._session.batch:
                    self._compute(pending)
                    pending = []
                continue
            self._compute(pending)  # sums take windows in the order of the plan
            pending = []
            if value in self._known:
                count.reused += 1
                self._add(self._known[value], 0, start)
                continue
            self._compute([start])
            self._remember(value)
        self._compute(pending)

    def _compute(self, starts: list[Shape3]) -> None:
        """Run up to a batch of windows and add up their margins."""
        if not starts:
            return
        stream = self._session.stream
        for slot, start in enumerate(starts):
            self._kernels.crop(
                self._image,
                self._session.input,
                self._box(self._rows, start),
                offset=slot * self._window * _FLOAT,
                low=0.0,
                span=1.0,
                stream=stream,
            )
        self._session.enqueue()
        answer = self._session.output.bytes // self._session.batch
        for slot, start in enumerate(starts):
            self._add(self._session.output, slot * answer, start)

    def _add(self, margins: Buffer, offset: int, start: Shape3) -> None:
        self._kernels.accumulate(
            margins,
            self._box(self._sums, start),
            offset=offset,
            weights=self._weights,
            channels=self._channels,
            count=self._count,
            total=self._total,
            norm=self._norm,
            bad=self._bad,
            stream=self._session.stream,
        )

    def _remember(self, value: float) -> None:
        """Keep the answer to a constant window."""
        if len(self._known) < _REMEMBERED:
            answer = self._new(self._session.output.bytes // self._session.batch)
            self._device.copy(answer, self._session.output, answer.bytes, self._session.stream)
            self._known[value] = answer

    def _box(self, ring: Shape3, start: Shape3) -> Box:
        axis = self._plan.axis
        return Box(buffer=ring, start=_replace(start, axis, start[axis] % ring[axis]), shape=self._plan.roi)

    # Labels

    def _slab_shape(self, group: _Group) -> Shape3:
        return _replace(self._plan.padded, self._plan.axis, group.end - group.first)

    def _finish(self, k: int, group: _Group) -> None:
        """Turn the rows that no later window touches into labels."""
        if k > 1:
            self._device.wait(self._session.stream, self._events["labels"][k % 2])  # its buffer was read
        start = _replace((0, 0, 0), self._plan.axis, group.first % self._sums[self._plan.axis])
        self._kernels.finish_labels(
            self._total,
            self._norm,
            self._values,
            self._labels[k % 2],
            Box(buffer=self._sums, start=start, shape=self._slab_shape(group)),
            wide=self._wide,
            count=self._count,
            stream=self._session.stream,
        )
        self._device.record(self._events["slab"][k % 2], self._session.stream)

    def _download(self, k: int, group: _Group) -> None:
        """Bring a slab's labels, and whether any margin was not finite, to the host."""
        self._device.wait(self._copy, self._events["slab"][k % 2])
        size = int(np.prod(self._slab_shape(group), dtype=np.int64)) * (2 if self._wide else 1)
        self._device.download(self._answers[k % 2].address, self._labels[k % 2], size, self._copy)
        self._device.download(self._flag.address, self._bad, _FLOAT, self._copy)
        self._device.record(self._events["labels"][k % 2], self._copy)

    def _collect(self, k: int, group: _Group) -> NDArray[Any]:
        """Wait for a slab's labels and return them."""
        self._device.synchronize(self._events["labels"][k % 2])
        if self._flag.view((1,), np.int32)[0]:
            raise EngineError(
                f"{self._session.name} answered with values that are not finite",
                received=f"{self._session.precision} on {self._session.device}",
                fix="Use --precision fp32 or another --engine.",
            )
        return self._answers[k % 2].view(self._slab_shape(group), np.uint16 if self._wide else np.uint8)

    # Memory

    def _new(self, size: int) -> Buffer:
        self._buffers.append(self._device.allocate(size))
        return self._buffers[-1]

    def _pin(self, size: int) -> Pinned:
        self._pinned.append(self._device.pinned(size))
        return self._pinned[-1]

    def _send(self, array: NDArray[Any]) -> Buffer:
        """Copy a small array to the device and wait for it."""
        buffer = self._new(array.nbytes)
        self._device.upload(buffer, array.ctypes.data, array.nbytes, self._copy)
        self._device.finish(self._copy)
        return buffer


def _groups(plan: WindowPlan) -> list[_Group]:
    """Split a plan's windows by their first row along the slab axis."""
    parts = [(first, tuple(starts)) for first, starts in groupby(plan.starts, key=lambda s: s[plan.axis])]
    ends = [first for first, _ in parts[1:]] + [plan.padded[plan.axis]]
    return [_Group(first=f, end=e, starts=starts) for (f, starts), e in zip(parts, ends, strict=True)]


def _ring_parts(begin: int, end: int, length: int) -> Iterator[tuple[int, int, int]]:
    """Cut rows [begin, end) where a ring of `length` rows ends; the third number counts rows cut before."""
    first = begin
    while first < end:
        last = min(end, first - first % length + length)
        yield first, last, first - begin
        first = last


def _replace(shape: Shape3, axis: int, value: int) -> Shape3:
    """Return a shape with another length along one axis."""
    x, y, z = (value if a == axis else n for a, n in enumerate(shape))
    return (x, y, z)


def _tell(done: Callable[[int], None] | None, finished: int) -> None:
    if done is not None:
        done(finished)
