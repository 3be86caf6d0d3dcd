"""Blending on the GPU: windows are cut, run and added up there; what comes back, a `Finish` decides.

The counterpart of `sliding.blend` for a session on a GPU, and equal to it bit for bit for equal logits:
windows add in the order of the plan. Two streams work side by side: *compute* cuts windows, runs the network
and adds up; *copy* brings the rows of the next windows in and finished slabs out. Events order them where
they touch the same memory:

    copy     rows 0 | rows 1    | slab 0, rows 2 | slab 1, rows 3 ...
    compute         | windows 0 | windows 1      | windows 2 ...

The CPU prepares the next rows in page-locked memory while the GPU computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.engines.gpu.device import Buffer
from gcis_runtime.engines.session import DeviceSession
from gcis_runtime.errors import EngineError
from gcis_runtime.sliding.blend import WindowCount
from gcis_runtime.sliding.cuda.finish import Finish, Piece, Slab
from gcis_runtime.sliding.cuda.kernels import Box, Kernels
from gcis_runtime.sliding.cuda.slabs import Group, group_windows, with_axis
from gcis_runtime.sliding.cuda.workspace import Workspace
from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.spec import Shape3

RowSource = Callable[[int, NDArray[np.float32]], None]
"""Writes rows of the padded image, from the one given along the slab axis, into an array (X, Y, Z): as many
as it has."""

_FLOAT = 4
_REMEMBERED = 8
"""Constant windows whose answer is kept on the device, as on the CPU."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sent:
    """A piece on its way to the host.

    Attributes:
        group: Which windows finished it.
        piece: The piece.
        slot: Which of the workspace's pairs it uses.
    """

    group: Group
    piece: Piece
    slot: int


class GpuBlender:
    """One volume's blending on a GPU. Use once, in one thread; `close` frees its memory, not the session's.

    Args:
        session: The network on the GPU.
        kernels: Our kernels on its device.
        plan: Window positions, in slab order; some of `plan_windows`' may be left out.
        weights: (X, Y, Z) of `plan.patch_size`, positive, or zero where logits count for nothing.
        channels: Graph channels to blend.
        finish: What becomes of finished sums; made for this plan.

    Raises:
        DeviceMemoryError: The device has not enough memory for a slab.
    """

    def __init__(
        self,
        session: DeviceSession,
        kernels: Kernels,
        plan: WindowPlan,
        weights: NDArray[np.float32],
        *,
        channels: tuple[int, ...],
        finish: Finish,
    ) -> None:
        self._session, self._kernels, self._plan, self._finish = session, kernels, plan, finish
        self._groups = group_windows(plan)
        self._count = len(channels)
        session.gpu.activate()
        self._work = Workspace(
            session.gpu, plan, self._groups,
            count=self._count, kept=finish.kept, piece_bytes=finish.piece_bytes,
        )  # fmt: skip
        try:
            self._weights = self._work.send(np.ascontiguousarray(weights, dtype=np.float32))
            self._channels = self._work.send(np.array(channels, dtype=np.int32))
            finish.prepare(self._work, kernels, session.stream)
        except BaseException:
            self._work.close()
            raise
        self._known: dict[int, Buffer] = {}

    def slabs(
        self,
        rows: RowSource,
        *,
        count: WindowCount | None = None,
        done: Callable[[int], None] | None = None,
    ) -> Iterator[Slab]:
        """Run every window and give finished slabs; none where the plan has no windows.

        Args:
            rows: The image.
            count: Counts windows, and those that needed no run of the network.
            done: Called with the number of windows that are finished.

        Raises:
            EngineError: The GPU failed, or the network answered with a value that is not finite.
        """
        gpu, work, compute = self._session.gpu, self._work, self._session.stream
        count = WindowCount() if count is None else count
        gpu.activate()
        for buffer in (work.total, work.norm, work.bad):
            gpu.zero(buffer, compute)
        if self._groups:
            self._bring(0, rows)
        waiting: deque[_Sent] = deque()
        number = 0
        for group in self._groups:
            self._run(group, count)
            later = group.number + 1
            for piece in self._finish.pieces(group):
                sent = _Sent(group=group, piece=piece, slot=number % 2)
                self._compute_piece(sent)
                if later < len(self._groups):
                    self._bring(later, rows)
                    later = len(self._groups)
                self._send_back(sent)
                waiting.append(sent)
                number += 1
                if len(waiting) > 1:
                    yield from self._collect(waiting.popleft(), done)
        for sent in waiting:
            yield from self._collect(sent, done)

    def close(self) -> None:
        """Free the blender's memory once the device has finished with it. May be called again."""
        self._session.gpu.activate()
        self._session.gpu.finish(self._session.stream)
        self._work.close()

    def _bring(self, number: int, rows: RowSource) -> None:
        """Copy the rows that a group needs and none before it needed, and find its constant windows.

        Nothing reads what is overwritten: `_run` waited for the last copies from the same page-locked memory,
        and on the copying stream the first piece of the group before the last, whose windows were the last to
        read these slots of the ring, comes first.
        """
        gpu, work, group, roi = self._session.gpu, self._work, self._groups[number], self._plan.patch_size
        shape = with_axis(self._plan.padded, self._plan.axis, group.new_rows)
        staged = work.staged[number % 2]
        size = int(np.prod(shape, dtype=np.int64)) * _FLOAT
        rows(group.new_first, staged.view(shape, np.float32))
        gpu.upload(work.arrived, staged.address, size, work.copy)
        start = with_axis((0, 0, 0), self._plan.axis, self._slot(group, group.new_first))
        box = Box(buffer=work.ring, start=start, shape=shape)
        self._kernels.spread(work.arrived, work.image, box, stream=work.copy)
        windows, found = len(group.starts), work.found[number % 2]
        starts = work.starts[number % 2]
        starts.view((windows, 3), np.int32)[...] = [self._in_ring(group, s) for s in group.starts]
        gpu.upload(work.places, starts.address, windows * 12, work.copy)
        gpu.fill(work.extents, 0, work.extents.bytes, work.copy)
        gpu.fill(work.extents, 255, windows * 4, work.copy)
        self._kernels.extent(
            work.image, work.places, work.extents, count=windows, ring=work.ring, window=roi, stream=work.copy
        )
        gpu.download(found.address, work.extents, windows * 8, work.copy)
        gpu.record(work.rows[number % 2], work.copy)

    def _slot(self, group: Group, row: int) -> int:
        """Return where a row of a group lies along the image's ring."""
        return (group.base + row - group.first) % self._work.ring[self._plan.axis]

    def _in_ring(self, group: Group, start: Shape3) -> Shape3:
        return with_axis(start, self._plan.axis, self._slot(group, start[self._plan.axis]))

    def _run(self, group: Group, count: WindowCount) -> None:
        """Cut, run and add up the windows of a group, in order."""
        gpu, work = self._session.gpu, self._work
        gpu.synchronize(work.rows[group.number % 2])  # extents on the host, rows on the device
        extents = work.found[group.number % 2].view((2, len(group.starts)), np.uint32)
        pending: list[Shape3] = []
        for start, least, most in zip(group.starts, *extents, strict=True):
            count.total += 1
            if least == most and int(least) in self._known:
                count.reused += 1
                self._compute(group, pending)
                pending = []
                self._add(self._known[int(least)], 0, start)
                continue
            pending.append(start)
            if least == most or len(pending) == self._session.batch:
                self._compute(group, pending)
                if least == most:
                    self._remember(int(least), len(pending) - 1)
                pending = []
        self._compute(group, pending)

    def _compute(self, group: Group, starts: list[Shape3]) -> None:
        """Run up to a batch of windows and add up their logits."""
        if not starts:
            return
        stream, window = self._session.stream, self._session.input.bytes // self._session.batch
        for slot, start in enumerate(starts):
            box = Box(buffer=self._work.ring, start=self._in_ring(group, start), shape=self._plan.patch_size)
            self._kernels.crop(
                self._work.image, self._session.input, box, offset=slot * window, stream=stream
            )
        self._session.enqueue()
        for slot, start in enumerate(starts):
            self._add(self._session.output, slot * self._answer, start)

    @property
    def _answer(self) -> int:
        """Bytes of one window's logits."""
        return self._session.output.bytes // self._session.batch

    def _add(self, logits: Buffer, offset: int, start: Shape3) -> None:
        axis, work = self._plan.axis, self._work
        place = with_axis(start, axis, start[axis] % work.sums[axis])
        self._kernels.accumulate(
            logits,
            Box(buffer=work.sums, start=place, shape=self._plan.patch_size),
            offset=offset,
            weights=self._weights,
            channels=self._channels,
            count=self._count,
            total=work.total,
            norm=work.norm,
            bad=work.bad,
            stream=self._session.stream,
        )

    def _remember(self, value: int, slot: int) -> None:
        """Keep the answer that the last run gave to a constant window."""
        if len(self._known) < _REMEMBERED:
            kept = self._work.allocate(self._answer)
            answer = Buffer(address=self._session.output.address + slot * self._answer, bytes=self._answer)
            self._session.gpu.copy(kept, answer, self._answer, self._session.stream)
            self._known[value] = kept

    def _compute_piece(self, sent: _Sent) -> None:
        """Queue the kernel that computes a piece.

        `_collect` waited until the piece that used the same buffer was on the host.
        """
        if sent.piece.bytes:
            sent.piece.launch(self._work.finished[sent.slot])
        self._session.gpu.record(self._work.ready[sent.slot], self._session.stream)

    def _send_back(self, sent: _Sent) -> None:
        """Copy a piece, and whether any logit was not finite, to the host."""
        gpu, work, slot = self._session.gpu, self._work, sent.slot
        gpu.wait(work.copy, work.ready[slot])
        if sent.piece.bytes:
            gpu.download(work.answers[slot].address, work.finished[slot], sent.piece.bytes, work.copy)
        gpu.download(work.flags[slot].address, work.bad, _FLOAT, work.copy)
        gpu.record(work.back[slot], work.copy)

    def _collect(self, sent: _Sent, done: Callable[[int], None] | None) -> Iterator[Slab]:
        """Wait for a piece and give it."""
        work, group = self._work, sent.group
        self._session.gpu.synchronize(work.back[sent.slot])
        if work.flags[sent.slot].view((1,), np.int32)[0]:
            raise EngineError(
                f"{self._session.name} answered with values that are not finite",
                received=f"{self._session.precision} on {self._session.device}",
                fix="Use --precision fp32 or another --engine.",
            )
        if done is not None:
            done(group.windows_before + len(group.starts))
        yield from self._finish.slabs(group, sent.piece, work.answers[sent.slot].array[: sent.piece.bytes])
