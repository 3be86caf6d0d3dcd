"""Blend windows on the GPU: cut them from the image, run the network, and accumulate logits there.

This is the counterpart of `sliding.blend` for a session on a GPU, and bit for bit equal to it for equal
logits: the additions of windows follow the order of the plan. A `SlabOutput` converts finished sums to labels
or logits, which are copied to the host.

Two streams run concurrently. The *compute* stream cuts windows, runs the network and accumulates. The *copy*
stream uploads the planes of the next slab and downloads the output of finished slabs. Events order the
streams where they access the same memory:

    copy     planes 0 | planes 1  | output 0, planes 2 | output 1, planes 3 ...
    compute           | windows 0 | windows 1          | windows 2 ...

Meanwhile a thread of the host prepares the next planes in page-locked memory. A batch that begins in one slab
may end in the next: the output of a slab is queued between the additions of its last window and of the next
one.
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
from gcis_runtime.grids.box import with_length
from gcis_runtime.sliding.blend import WindowCount, kept_outputs
from gcis_runtime.sliding.cuda.image_ring import ImageRing, PlaneSource
from gcis_runtime.sliding.cuda.kernels import Kernels
from gcis_runtime.sliding.cuda.output import OutputBlock, OutputChunk, SlabOutput
from gcis_runtime.sliding.cuda.ring_box import RingBox
from gcis_runtime.sliding.cuda.window_batch import WindowBatch
from gcis_runtime.sliding.cuda.workspace import Workspace
from gcis_runtime.sliding.schedule import Schedule, Slab
from gcis_runtime.spec import Shape3


@dataclass(frozen=True, kw_only=True, eq=False)
class _Transfer:
    """Output that is being computed or copied to the host.

    Attributes:
        slab: The slab whose windows finished it.
        chunk: The part of the slab's output.
        slot: Index of the buffers of the workspace that it uses, 0 or 1.
    """

    slab: Slab
    chunk: OutputChunk
    slot: int


class GpuBlender:
    """Blending of one volume on a GPU, used once, in one thread.

    `close` frees the memory of the blender, but not that of the session.

    Args:
        session: The network on the GPU.
        kernels: The compiled kernels on the same device.
        schedule: The schedule of the windows.
        weights: (X, Y, Z) blending weights of a window; zero where logits do not contribute.
        channels: Graph channels to blend.
        output: Conversion of finished sums, made for the same schedule.

    Raises:
        DeviceMemoryError: The device has not enough memory for a slab.
    """

    def __init__(
        self,
        session: DeviceSession,
        kernels: Kernels,
        schedule: Schedule,
        weights: NDArray[np.float32],
        *,
        channels: tuple[int, ...],
        output: SlabOutput,
    ) -> None:
        self._session, self._kernels, self._schedule, self._output = session, kernels, schedule, output
        self._plan, self._slabs = schedule.plan, schedule.slabs
        self._count = len(channels)
        session.gpu.activate()
        self._work = Workspace(session.gpu, schedule, output)
        try:
            self._weights = self._work.send(np.ascontiguousarray(weights, dtype=np.float32))
            self._channels = self._work.send(np.array(channels, dtype=np.int32))
            output.prepare(self._work, kernels, session.stream)
        except BaseException:
            self._work.close()
            raise
        self._known: dict[int, Buffer] = {}  # outputs of constant windows, by the bits of their value
        self._batch = WindowBatch(session.batch, most_kept=kept_outputs(self._output_bytes))
        self._transfers: deque[_Transfer] = deque()
        self._chunks_queued, self._slabs_queued = 0, 0

    def blocks(
        self,
        planes: PlaneSource,
        *,
        count: WindowCount | None = None,
        done: Callable[[int], None] | None = None,
    ) -> Iterator[OutputBlock]:
        """Run every window and yield the output of finished slabs; nothing for a plan without windows.

        Args:
            planes: Source of the image.
            count: Counter of windows, and of windows whose output was reused.
            done: Callback that receives the number of finished windows.

        Raises:
            EngineError: The GPU failed, or the output of the network is not finite.
        """
        gpu, work, compute = self._session.gpu, self._work, self._session.stream
        count = WindowCount() if count is None else count
        gpu.activate()
        for buffer in (work.total, work.norm, work.not_finite):
            gpu.zero(buffer, compute)
        batch, slabs = self._session.batch, len(self._slabs)
        image = ImageRing(gpu, self._kernels, work, self._schedule, planes)
        for slab in self._slabs:
            if slab.number == image.loaded:
                if self._slabs_queued < slab.number - 1:
                    yield from self._compute(image, done)
                image.load()
            for number, (start, value) in enumerate(image.enter(slab), 1):
                count.total += 1
                count.reused += not self._batch.add(slab, start, value)
                if self._batch.full:
                    yield from self._compute(image, done)
                    # Every earlier slab is finished here. A session may wait for the end of each run, and
                    # the upload overlaps only with runs that follow.
                    if len(slab.windows) - number < 2 * batch and image.loaded == slab.number + 1 < slabs:
                        image.load()
        yield from self._compute(image, done)
        while self._transfers:
            yield from self._collect(self._transfers.popleft(), done)

    def close(self) -> None:
        """Free the memory of the blender once the device has finished using it. May be called again."""
        self._session.gpu.activate()
        self._session.gpu.finish(self._session.stream)
        self._work.close()

    def _compute(self, image: ImageRing, done: Callable[[int], None] | None) -> Iterator[OutputBlock]:
        """Cut and run the windows of a batch, accumulate them in order, and queue the output of slabs."""
        windows, session = self._batch.take(), self._session
        window_bytes = session.input.bytes // session.batch
        for window in windows:
            if window.computed and window.slot is not None:
                box = RingBox(
                    ring=self._work.image_ring,
                    start=image.place(window.slab, window.start),
                    shape=self._plan.patch_size,
                )
                self._kernels.crop(
                    self._work.image, session.input, box,
                    offset=window.slot * window_bytes, stream=session.stream,
                )  # fmt: skip
        if any(window.computed for window in windows):
            session.enqueue()
        for window in windows:
            if window.slot is not None:
                self._accumulate(session.output, window.slot * self._output_bytes, window.start)
            elif window.value is not None:
                self._accumulate(self._known[window.value], 0, window.start)
            if window.kept and window.slot is not None and window.value is not None:
                self._keep_output(window.value, window.slot)
            if window.last:
                yield from self._finish(window.slab, done)

    def _finish(self, slab: Slab, done: Callable[[int], None] | None) -> Iterator[OutputBlock]:
        """Queue the output of a slab, and yield earlier output."""
        for chunk in self._output.chunks(slab):
            transfer = _Transfer(slab=slab, chunk=chunk, slot=self._chunks_queued % 2)
            self._compute_chunk(transfer)
            self._download(transfer)
            self._transfers.append(transfer)
            self._chunks_queued += 1
            if len(self._transfers) > 1:
                yield from self._collect(self._transfers.popleft(), done)
        self._slabs_queued += 1

    @property
    def _output_bytes(self) -> int:
        """Bytes of the output of the network for one window."""
        return self._session.output.bytes // self._session.batch

    def _accumulate(self, logits: Buffer, offset: int, start: Shape3) -> None:
        axis, work = self._plan.axis, self._work
        ring_start = with_length(start, axis, start[axis] % work.sum_ring[axis])
        self._kernels.accumulate(
            logits,
            RingBox(ring=work.sum_ring, start=ring_start, shape=self._plan.patch_size),
            offset=offset,
            weights=self._weights,
            channels=self._channels,
            count=self._count,
            total=work.total,
            norm=work.norm,
            not_finite=work.not_finite,
            stream=self._session.stream,
        )

    def _keep_output(self, value: int, slot: int) -> None:
        """Keep a copy of the output of a constant window."""
        kept = self._work.allocate(self._output_bytes)
        address = self._session.output.address + slot * self._output_bytes
        output = Buffer(address=address, bytes=self._output_bytes)
        self._session.gpu.copy(kept, output, self._output_bytes, self._session.stream)
        self._known[value] = kept

    def _compute_chunk(self, transfer: _Transfer) -> None:
        """Queue the kernel that computes a chunk.

        `_collect` waited until the previous chunk in the same buffer was on the host.
        """
        if transfer.chunk.bytes:
            transfer.chunk.launch(self._work.chunks[transfer.slot])
        self._session.gpu.record(self._work.computed[transfer.slot], self._session.stream)

    def _download(self, transfer: _Transfer) -> None:
        """Copy a chunk and the flag for logits that are not finite to the host."""
        gpu, work, slot = self._session.gpu, self._work, transfer.slot
        gpu.wait(work.copy, work.computed[slot])
        if transfer.chunk.bytes:
            gpu.download(work.host_chunks[slot].address, work.chunks[slot], transfer.chunk.bytes, work.copy)
        gpu.download(work.host_flags[slot].address, work.not_finite, work.not_finite.bytes, work.copy)
        gpu.record(work.downloaded[slot], work.copy)

    def _collect(self, transfer: _Transfer, done: Callable[[int], None] | None) -> Iterator[OutputBlock]:
        """Wait until a chunk is on the host, and yield its blocks."""
        work, slab = self._work, transfer.slab
        self._session.gpu.synchronize(work.downloaded[transfer.slot])
        if work.host_flags[transfer.slot].view((1,), np.int32)[0]:
            raise EngineError(
                f"the output of {self._session.name} is not finite",
                received=f"logits that are not finite, {self._session.precision} on {self._session.device}",
                fix="Use --precision fp32 or another --engine.",
            )
        if done is not None:
            done(slab.windows_before + len(slab.windows))
        data = work.host_chunks[transfer.slot].array[: transfer.chunk.bytes]
        yield from self._output.blocks(slab, transfer.chunk, data)
