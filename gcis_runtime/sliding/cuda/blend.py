"""Blend windows on the GPU: cut them from the image, run the network, and accumulate logits there.

This is the counterpart of `sliding.blend` for a session on a GPU, and bit for bit equal to it for equal
logits: the additions of windows follow the order of the plan. A `SlabOutput` converts finished sums to labels
or logits, which are copied to the host.

Two streams run concurrently. The *compute* stream cuts windows, runs the network and accumulates. The *copy*
stream uploads the planes of the next slab and downloads the output of finished slabs. Events order the
streams where they access the same memory:

    copy     planes 0 | planes 1  | output 0, planes 2 | output 1, planes 3 ...
    compute           | windows 0 | windows 1          | windows 2 ...

The CPU prepares the next planes in page-locked memory while the GPU computes.
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
from gcis_runtime.sliding.cuda.kernels import Kernels
from gcis_runtime.sliding.cuda.output import OutputBlock, OutputChunk, SlabOutput
from gcis_runtime.sliding.cuda.ring_box import RingBox
from gcis_runtime.sliding.cuda.workspace import Workspace
from gcis_runtime.sliding.schedule import Schedule, Slab
from gcis_runtime.spec import FLOAT32_BYTES, Shape3

PlaneSource = Callable[[int, NDArray[np.float32]], None]
"""Writes planes of the padded image into an array (X, Y, Z). The first argument is the first plane along the
slab axis; the length of the array is the number of planes."""


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
        if self._slabs:
            self._load(0, planes)
        transfers: deque[_Transfer] = deque()
        number = 0
        for slab in self._slabs:
            self._run(slab, count)
            later = slab.number + 1
            for chunk in self._output.chunks(slab):
                transfer = _Transfer(slab=slab, chunk=chunk, slot=number % 2)
                self._compute_chunk(transfer)
                if later < len(self._slabs):
                    self._load(later, planes)
                    later = len(self._slabs)
                self._download(transfer)
                transfers.append(transfer)
                number += 1
                if len(transfers) > 1:
                    yield from self._collect(transfers.popleft(), done)
        for transfer in transfers:
            yield from self._collect(transfer, done)

    def close(self) -> None:
        """Free the memory of the blender once the device has finished using it. May be called again."""
        self._session.gpu.activate()
        self._session.gpu.finish(self._session.stream)
        self._work.close()

    def _load(self, number: int, planes: PlaneSource) -> None:
        """Upload the planes of a slab that no earlier slab reads, and compute the value range of its windows.

        Nothing that is overwritten here is still in use. `_run` waited for the previous copy from the same
        page-locked memory. On the copy stream, the download of the first chunk of the slab before the
        previous one comes first, and the windows of that slab were the last to read these planes of the ring
        buffer.
        """
        gpu, work, slab, window = self._session.gpu, self._work, self._slabs[number], self._plan.patch_size
        shape = with_length(self._plan.padded, self._plan.axis, slab.new_planes)
        staged = work.staged[number % 2]
        size = int(np.prod(shape, dtype=np.int64)) * FLOAT32_BYTES
        planes(slab.new_first, staged.view(shape, np.float32))
        gpu.upload(work.uploaded, staged.address, size, work.copy)
        start = with_length((0, 0, 0), self._plan.axis, self._ring_plane(slab, slab.new_first))
        box = RingBox(ring=work.image_ring, start=start, shape=shape)
        self._kernels.scatter(work.uploaded, work.image, box, stream=work.copy)
        windows, ranges = len(slab.windows), work.host_ranges[number % 2]
        starts = work.host_starts[number % 2]
        starts.view((windows, 3), np.int32)[...] = [self._in_ring(slab, s) for s in slab.windows]
        gpu.upload(work.starts, starts.address, windows * 12, work.copy)
        gpu.fill(work.ranges, 0, work.ranges.bytes, work.copy)
        gpu.fill(work.ranges, 0xFF, windows * 4, work.copy)
        self._kernels.value_range(
            work.image, work.starts, work.ranges,
            count=windows, ring=work.image_ring, window=window, stream=work.copy,
        )  # fmt: skip
        gpu.download(ranges.address, work.ranges, windows * 8, work.copy)
        gpu.record(work.loaded[number % 2], work.copy)

    def _ring_plane(self, slab: Slab, plane: int) -> int:
        """Return the index along the image ring buffer of a plane of a slab."""
        return (slab.loaded_before + plane - slab.first) % self._work.image_ring[self._plan.axis]

    def _in_ring(self, slab: Slab, start: Shape3) -> Shape3:
        return with_length(start, self._plan.axis, self._ring_plane(slab, start[self._plan.axis]))

    def _run(self, slab: Slab, count: WindowCount) -> None:
        """Cut, run and accumulate the windows of a slab, in order."""
        gpu, work = self._session.gpu, self._work
        gpu.synchronize(work.loaded[slab.number % 2])  # value ranges on the host, planes on the device
        ranges = work.host_ranges[slab.number % 2].view((2, len(slab.windows)), np.uint32)
        pending: list[Shape3] = []
        for start, least, most in zip(slab.windows, *ranges, strict=True):
            count.total += 1
            if least == most and int(least) in self._known:
                count.reused += 1
                self._compute(slab, pending)
                pending = []
                self._accumulate(self._known[int(least)], 0, start)
                continue
            pending.append(start)
            if least == most or len(pending) == self._session.batch:
                self._compute(slab, pending)
                if least == most:
                    self._keep_output(int(least), len(pending) - 1)
                pending = []
        self._compute(slab, pending)

    def _compute(self, slab: Slab, starts: list[Shape3]) -> None:
        """Run the network on up to a batch of windows and accumulate their logits."""
        if not starts:
            return
        stream, window_bytes = self._session.stream, self._session.input.bytes // self._session.batch
        for slot, start in enumerate(starts):
            box = RingBox(
                ring=self._work.image_ring, start=self._in_ring(slab, start), shape=self._plan.patch_size
            )
            self._kernels.crop(
                self._work.image, self._session.input, box, offset=slot * window_bytes, stream=stream
            )
        self._session.enqueue()
        for slot, start in enumerate(starts):
            self._accumulate(self._session.output, slot * self._output_bytes, start)

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
        """Keep a copy of the output of a constant window, within the limit shared with the CPU."""
        if len(self._known) < kept_outputs(self._output_bytes):
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
