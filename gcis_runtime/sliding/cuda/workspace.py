"""Memory, streams and events of one volume's blending on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.engines.gpu.device import Buffer, Device, Pinned
from gcis_runtime.sliding.cuda.slabs import Group, with_axis
from gcis_runtime.sliding.plan import WindowPlan

_FLOAT = 4


def workspace_bytes(
    plan: WindowPlan, groups: Sequence[Group], *, count: int, kept: int, piece_bytes: int
) -> tuple[int, int]:
    """Return the bytes that a `Workspace` takes on the device and, page-locked, on the host.

    Answers of constant windows that are kept, and buffers of a few bytes, are not counted.

    Args:
        plan: Window positions.
        groups: The plan's windows by first row.
        count: Channels that are blended.
        kept: Finished rows that stay among the sums.
        piece_bytes: Size of the largest piece that comes back.
    """
    depth = plan.patch_size[plan.axis]
    later = max((group.new_rows for group in groups[1:]), default=0)
    windows = max((len(group.starts) for group in groups), default=0)
    plane = int(np.prod(with_axis(plan.padded, plan.axis, 1), dtype=np.int64))
    rows = (depth + later) + depth + (depth + kept) * (count + 1)  # image, arrived, sums and weights
    return (
        plane * rows * _FLOAT + 2 * piece_bytes + windows * 20,
        plane * (depth + max(later, 1)) * _FLOAT + 2 * piece_bytes + windows * 40,
    )


class Workspace:
    """What `GpuBlender` works in; one slab deep, whatever the volume's length.

    Pairs are used in turn by even and odd groups, those of pieces by even and odd pieces.

    Args:
        device: The GPU.
        plan: Window positions.
        groups: The plan's windows by first row.
        count: Channels that are blended.
        kept: Finished rows that stay among the sums.
        piece_bytes: Size of the largest piece that comes back.

    Attributes:
        ring: Shape of the image's ring: a window and the rows that arrive meanwhile along the slab axis.
        sums: Shape of the sums' ring: one window and what is kept along the slab axis.
        image: The image, float32.
        arrived: Rows on their way into `image`.
        places: Where the next group's windows begin in `image`, (windows, 3) int32.
        extents: Smallest and largest value of each of them.
        total: (count, sums) float32.
        norm: Sum of weights.
        bad: int32, 1 when a logit was not finite.
        finished: Pair of finished pieces.
        staged: Pair of rows on the host.
        starts: Pair, host side of `places`.
        found: Pair, host side of `extents`.
        answers: Pair, host side of `finished`.
        flags: Pair, host side of `bad`.
        copy: The stream that copies.
        rows: Pair of events: a group's rows and extents are there.
        ready: Pair of events: a piece is finished.
        back: Pair of events: a piece is on the host.
    """

    def __init__(
        self,
        device: Device,
        plan: WindowPlan,
        groups: Sequence[Group],
        *,
        count: int,
        kept: int,
        piece_bytes: int,
    ) -> None:
        axis, depth = plan.axis, plan.patch_size[plan.axis]
        self._device = device
        self._made: list[Any] = []
        later = max((group.new_rows for group in groups[1:]), default=0)
        windows = max((len(group.starts) for group in groups), default=0)
        self.ring = with_axis(plan.padded, axis, depth + later)
        self.sums = with_axis(plan.padded, axis, depth + kept)
        plane = int(np.prod(with_axis(plan.padded, axis, 1), dtype=np.int64))
        try:
            self.image = self.allocate(plane * (depth + later) * _FLOAT)
            self.arrived = self.allocate(plane * depth * _FLOAT)
            self.places = self.allocate(windows * 12)
            self.extents = self.allocate(windows * 8)
            self.total = self.allocate(plane * (depth + kept) * count * _FLOAT)
            self.norm = self.allocate(plane * (depth + kept) * _FLOAT)
            self.bad = self.allocate(_FLOAT)
            self.finished = [self.allocate(piece_bytes) for _ in range(2)]
            self.staged = [self._pin(plane * rows * _FLOAT) for rows in (depth, max(later, 1))]
            self.starts = [self._pin(windows * 12) for _ in range(2)]
            self.found = [self._pin(windows * 8) for _ in range(2)]
            self.answers = [self._pin(piece_bytes) for _ in range(2)]
            self.flags = [self._pin(_FLOAT) for _ in range(2)]
            self.copy = self._keep(device.stream())
            self.rows, self.ready, self.back = (
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
        """Copy a small array to the device and wait for it."""
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
