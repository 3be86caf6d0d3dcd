"""Load the planes of an image into a ring buffer on the GPU, slab by slab, and find constant windows.

The planes of the next slab are prepared on the host while the network computes the current one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.engines.gpu.device import Device
from gcis_runtime.grids.box import with_length
from gcis_runtime.sliding.cuda.kernels import Kernels
from gcis_runtime.sliding.cuda.ring_box import RingBox
from gcis_runtime.sliding.cuda.workspace import Workspace
from gcis_runtime.sliding.schedule import Schedule, Slab
from gcis_runtime.spec import FLOAT32_BYTES, Shape3

PlaneSource = Callable[[int, NDArray[np.float32]], Callable[[], None]]
"""Starts to write planes of the padded image into an array (X, Y, Z), and returns a function that waits for
the end. The first argument is the first plane along the slab axis; the length of the array is the number of
planes."""


class ImageRing:
    """Planes of the image on the GPU: those of a slab, and those that only the next slab reads.

    For each slab in order, call `load` and `enter`. Slab `n` may be loaded once the output of slab `n - 2` is
    queued: only windows of that slab read the planes that are overwritten, and on the copy stream the
    download of its output comes first.

    Args:
        gpu: The GPU.
        kernels: The compiled kernels.
        work: The workspace.
        schedule: The schedule of the windows.
        planes: Source of the image.
    """

    def __init__(
        self, gpu: Device, kernels: Kernels, work: Workspace, schedule: Schedule, planes: PlaneSource
    ) -> None:
        self._gpu, self._kernels, self._work, self._planes = gpu, kernels, work, planes
        self._plan, self._slabs = schedule.plan, schedule.slabs
        self._prepared: Callable[[], None] = lambda: None
        self.loaded = 0
        """Number of slabs that are loaded."""
        self._prepare(0)

    def load(self) -> None:
        """Upload the planes of the next slab, and compute the value range of its windows."""
        gpu, work, number = self._gpu, self._work, self.loaded
        slab, shape = self._slabs[number], self._new_shape(number)
        self._prepared()
        gpu.upload(
            work.uploaded, work.staged[number % 2].address, math.prod(shape) * FLOAT32_BYTES, work.copy
        )
        start = with_length((0, 0, 0), self._plan.axis, self._ring_plane(slab, slab.new_first))
        box = RingBox(ring=work.image_ring, start=start, shape=shape)
        self._kernels.scatter(work.uploaded, work.image, box, stream=work.copy)
        windows, ranges = len(slab.windows), work.host_ranges[number % 2]
        starts = work.host_starts[number % 2]
        starts.view((windows, 3), np.int32)[...] = [self.place(slab, s) for s in slab.windows]
        gpu.upload(work.starts, starts.address, windows * 12, work.copy)
        gpu.fill(work.ranges, 0, work.ranges.bytes, work.copy)
        gpu.fill(work.ranges, 0xFF, windows * 4, work.copy)
        self._kernels.value_range(
            work.image, work.starts, work.ranges,
            count=windows, ring=work.image_ring, window=self._plan.patch_size, stream=work.copy,
        )  # fmt: skip
        gpu.download(ranges.address, work.ranges, windows * 8, work.copy)
        gpu.record(work.loaded[number % 2], work.copy)
        self.loaded += 1

    def enter(self, slab: Slab) -> Iterator[tuple[Shape3, int | None]]:
        """Wait until a slab is loaded, and start to prepare the next one.

        Returns:
            Start of each window, and the bits of its value if it is constant.
        """
        self._gpu.synchronize(self._work.loaded[slab.number % 2])
        # The upload from the other page-locked buffer ended before: it is earlier on the same stream.
        self._prepare(slab.number + 1)
        ranges = self._work.host_ranges[slab.number % 2].view((2, len(slab.windows)), np.uint32).tolist()
        return (
            (start, least if least == most else None)
            for start, least, most in zip(slab.windows, *ranges, strict=True)
        )

    def place(self, slab: Slab, start: Shape3) -> Shape3:
        """Return the first index of a window of a slab in the ring buffer."""
        return with_length(start, self._plan.axis, self._ring_plane(slab, start[self._plan.axis]))

    def _prepare(self, number: int) -> None:
        """Start to write the new planes of a slab into page-locked memory; nothing after the last slab."""
        if number < len(self._slabs):
            staged = self._work.staged[number % 2].view(self._new_shape(number), np.float32)
            self._prepared = self._planes(self._slabs[number].new_first, staged)

    def _new_shape(self, number: int) -> Shape3:
        return with_length(self._plan.padded, self._plan.axis, self._slabs[number].new_planes)

    def _ring_plane(self, slab: Slab, plane: int) -> int:
        """Return the index along the ring buffer of a plane of a slab."""
        return (slab.loaded_before + plane - slab.first) % self._work.image_ring[self._plan.axis]
