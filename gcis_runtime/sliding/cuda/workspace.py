"""Allocate the memory, streams and events for blending one volume on a GPU, and forecast their bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from gcis_runtime.engines.gpu.device import Buffer, Device
from gcis_runtime.engines.gpu.pinned import Pinned
from gcis_runtime.grids.box import with_length
from gcis_runtime.sliding.blend import kept_outputs
from gcis_runtime.sliding.schedule import Schedule
from gcis_runtime.spec import FLOAT32_BYTES

_INT32_BYTES = 4
_START_BYTES = 12
"""Start of a window: x, y, z as int32."""
_RANGE_BYTES = 8
"""Value range of a window: smallest and largest bit pattern as uint32."""


class OutputSizes(Protocol):
    """Sizes of a `SlabOutput` that determine the memory of a workspace.

    Attributes:
        count: Number of blended channels.
        kept_planes: Finished planes that stay in the sums until the next slab.
        chunk_bytes: Bytes of the largest chunk.
        table_bytes: Bytes of the tables on the device.
    """

    count: int
    kept_planes: int
    chunk_bytes: int
    table_bytes: int


@dataclass(frozen=True, kw_only=True)
class WorkspaceBytes:
    """Memory for blending a volume.

    Attributes:
        device: Bytes on the device.
        pinned: Bytes of page-locked memory on the host.
    """

    device: int
    pinned: int


def workspace_bytes(schedule: Schedule, output: OutputSizes, *, output_bytes: int) -> WorkspaceBytes:
    """Return the memory that a `GpuBlender` allocates at most.

    Outputs of constant windows are counted as if every window were constant with a different value. All other
    sizes are exact, except that no buffer is smaller than one byte.

    Args:
        schedule: The schedule of the windows.
        output: The conversion of finished sums.
        output_bytes: Bytes of the output of the network for one window, all channels of the graph.
    """
    plan, windows = schedule.plan, schedule.slab_windows
    depth, later = plan.patch_size[plan.axis], schedule.later_planes
    plane = math.prod(with_length(plan.padded, plan.axis, 1))
    image = plane * depth + math.prod(schedule.plane_ring_shape(later))
    sums = (output.count + 1) * math.prod(schedule.plane_ring_shape(output.kept_planes))
    weights = math.prod(plan.patch_size)
    kept = min(kept_outputs(output_bytes), len(plan.starts))
    device = FLOAT32_BYTES * (image + sums + weights)
    device += 2 * output.chunk_bytes + windows * (_START_BYTES + _RANGE_BYTES) + kept * output_bytes
    device += _INT32_BYTES * (1 + output.count) + output.table_bytes  # flag, channels
    pinned = FLOAT32_BYTES * plane * (depth + max(later, 1))
    pinned += 2 * (output.chunk_bytes + windows * (_START_BYTES + _RANGE_BYTES) + _INT32_BYTES)
    return WorkspaceBytes(device=device, pinned=pinned)


class Workspace:
    """Memory, streams and events of a `GpuBlender`; their size does not depend on the length of the volume.

    Pairs of buffers and events are used alternately: by even and odd slabs, or by even and odd chunks of
    output.

    Args:
        device: The GPU.
        schedule: The schedule of the windows.
        output: The conversion of finished sums.

    Attributes:
        image_ring: Shape of the ring buffer of the image: one window, and the planes that are uploaded while
            it is computed.
        sum_ring: Shape of the ring buffer of the sums: one window and the finished planes that are kept.
        image: Ring buffer of the image, float32.
        uploaded: Planes of the image before they are copied into the ring buffer, float32.
        starts: (windows, 3) int32 starts of the windows of the next slab in the image ring buffer.
        ranges: (2, windows) uint32 smallest and largest bit pattern of these windows.
        total: (count, *sum_ring) float32 sums of weighted logits.
        norm: Ring buffer of the sums of weights, float32.
        not_finite: int32, 1 after a logit was not finite.
        chunks: Pair of output chunks.
        staged: Pair of host buffers for planes of the image.
        host_starts: Pair of host buffers for `starts`.
        host_ranges: Pair of host buffers for `ranges`.
        host_chunks: Pair of host buffers for `chunks`.
        host_flags: Pair of host buffers for `not_finite`.
        copy: Stream for copies.
        loaded: Pair of events: planes and value ranges of a slab are available.
        computed: Pair of events: a chunk is computed.
        downloaded: Pair of events: a chunk is on the host.

    Raises:
        DeviceMemoryError: The device has not enough memory.
    """

    def __init__(self, device: Device, schedule: Schedule, output: OutputSizes) -> None:
        plan = schedule.plan
        depth, later, windows = plan.patch_size[plan.axis], schedule.later_planes, schedule.slab_windows
        self._device = device
        self._made: list[Any] = []
        self.image_ring = schedule.plane_ring_shape(later)
        self.sum_ring = schedule.plane_ring_shape(output.kept_planes)
        plane_bytes = FLOAT32_BYTES * math.prod(with_length(plan.padded, plan.axis, 1))
        ring_bytes = FLOAT32_BYTES * math.prod(self.sum_ring)
        try:
            self.image = self.allocate(FLOAT32_BYTES * math.prod(self.image_ring))
            self.uploaded = self.allocate(plane_bytes * depth)
            self.starts = self.allocate(windows * _START_BYTES)
            self.ranges = self.allocate(windows * _RANGE_BYTES)
            self.total = self.allocate(ring_bytes * output.count)
            self.norm = self.allocate(ring_bytes)
            self.not_finite = self.allocate(_INT32_BYTES)
            self.chunks = [self.allocate(output.chunk_bytes) for _ in range(2)]
            self.staged = [self._pin(plane_bytes * planes) for planes in (depth, max(later, 1))]
            self.host_starts = [self._pin(windows * _START_BYTES) for _ in range(2)]
            self.host_ranges = [self._pin(windows * _RANGE_BYTES) for _ in range(2)]
            self.host_chunks = [self._pin(output.chunk_bytes) for _ in range(2)]
            self.host_flags = [self._pin(_INT32_BYTES) for _ in range(2)]
            self.copy = self._keep(device.stream())
            self.loaded, self.computed, self.downloaded = (
                [self._keep(device.event()) for _ in range(2)] for _ in range(3)
            )
        except BaseException:
            self.close()
            raise

    def allocate(self, size: int) -> Buffer:
        """Allocate device memory that `close` frees."""
        buffer = self._device.allocate(max(size, 1))
        self._made.append(buffer)
        return buffer

    def send(self, array: NDArray[Any]) -> Buffer:
        """Copy a small array to the device, and wait for the copy."""
        buffer = self.allocate(array.nbytes)
        self._device.upload(buffer, array.ctypes.data, array.nbytes, self.copy)
        self._device.finish(self.copy)
        return buffer

    def close(self) -> None:
        """Free everything once the copies have finished. May be called again."""
        if hasattr(self, "copy"):
            self._device.finish(self.copy)
            del self.copy
        while self._made:
            self._device.free(self._made.pop())

    def _pin(self, size: int) -> Pinned:
        pinned = self._device.pinned(max(size, 1))
        self._made.append(pinned)
        return pinned

    def _keep(self, handle: Any) -> Any:
        self._made.append(handle)
        return handle
