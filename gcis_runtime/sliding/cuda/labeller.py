"""`Labeller` on a GPU: the image goes there slab by slab, and labels come back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.engines.session import DeviceSession
from gcis_runtime.grids.box import positive_box
from gcis_runtime.grids.grid_transform import GridTransform
from gcis_runtime.sliding.accumulator import Tile
from gcis_runtime.sliding.blend import WindowCount
from gcis_runtime.sliding.cuda.blend import GpuBlender
from gcis_runtime.sliding.cuda.finish import FileFinish, Finish, GridFinish, Slab
from gcis_runtime.sliding.cuda.kernels import Kernels, cached_kernels
from gcis_runtime.sliding.cuda.slabs import group_windows
from gcis_runtime.sliding.label_sink import LabelSink
from gcis_runtime.sliding.labeller import LabelTask
from gcis_runtime.sliding.native_grid import Restorer
from gcis_runtime.sliding.plan import WindowPlan, read_planes
from gcis_runtime.system.private_cache import open_cache
from gcis_runtime.system.stage_clock import StageClock


def choose_finish(
    plan: WindowPlan, transform: GridTransform, *, values: tuple[int, ...], smooth: bool, logits: bool
) -> Finish:
    """Return what becomes of finished sums on the GPU.

    Args:
        plan: Window positions.
        transform: The way to the file's grid.
        values: Label value of each channel.
        smooth: Interpolate logits at the file's voxels.
        logits: Masks or probabilities are wanted, which the host makes of logits.
    """
    groups = group_windows(plan)
    if smooth and not logits and transform.to_file is not None:
        return FileFinish(plan, groups, grid=transform.to_file, values=values)
    return GridFinish(plan, groups, values=values, logits=logits)


class GpuLabeller:
    """Blends and restores on the session's GPU; see `Labeller`.

    Only labels come back: on the file's grid where boundaries are smooth, else on the network's, of which
    the host takes the nearest. Masks and probabilities need the logits on the host.
    The time that the CPU waits for the GPU counts as `network`: blending and restoring run there among the
    windows.

    Args:
        session: The network on a GPU.
        kernels: Our kernels on that GPU; None compiles them, or takes them from this user's cache.

    Attributes:
        least_free: Device memory that was free when the last volume had taken all it needed; None before.

    Raises:
        EngineError: The kernels cannot be compiled.
    """

    def __init__(self, session: DeviceSession, kernels: Kernels | None = None) -> None:
        self._session = session
        self.least_free: int | None = None
        if kernels is None:
            session.gpu.activate()
            kernels = Kernels(session.gpu, cached_kernels(session.gpu.info.sm, open_cache()))
        self._kernels = kernels

    def label(self, task: LabelTask, sink: LabelSink, clock: StageClock) -> WindowCount:
        """See `Labeller.label`."""
        count, plan = WindowCount(), task.plan

        def rows(first: int, out: NDArray[np.float32]) -> None:
            with clock.stage("preprocess"):
                read_planes(task.image.box, plan, first, out, padding_value=task.padding_value)

        finish = choose_finish(
            plan,
            task.image.transform,
            values=task.values,
            smooth=task.restore == "smooth",
            logits=sink.wants_logits,
        )
        take = _taker(finish, task, sink)
        blender = GpuBlender(
            self._session, self._kernels, plan, task.weights, channels=task.channels, finish=finish
        )
        try:
            with clock.stage("network"):
                for slab in blender.slabs(rows, count=count, done=task.done):
                    with clock.stage("restore"):
                        take(slab)
            self.least_free = self._session.gpu.free_memory()
        finally:
            blender.close()
        return count


def _taker(finish: Finish, task: LabelTask, sink: LabelSink) -> Callable[[Slab], None]:
    """Return what the host does with a slab."""

    def file_labels(slab: Slab) -> None:
        found = positive_box(slab.data)
        if found is not None:
            x, y, z = (
                slice(s.start + p.start, s.start + p.stop) for s, p in zip(slab.box, found, strict=True)
            )
            sink.put((x, y, z), slab.data[found])

    if isinstance(finish, FileFinish):
        return file_labels
    smooth = task.restore == "smooth"
    restorer = Restorer(
        plan=task.plan, transform=task.image.transform, values=task.values, smooth=smooth, sink=sink
    )

    def grid_values(slab: Slab) -> None:
        x, y, z = (part.start for part in slab.box)
        if sink.wants_logits:
            restorer.add(Tile(start=(x, y, z), logits=slab.data))
        else:
            restorer.add_labels((x, y, z), slab.data)

    return grid_values
