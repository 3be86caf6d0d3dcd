"""`Labeller` on a GPU: the image goes there slab by slab, and labels come back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.blend import WindowCount
from gcis_runtime.clock import StageClock
from gcis_runtime.cuda.blend import GpuBlender
from gcis_runtime.cuda.kernels import Kernels, cached_kernels
from gcis_runtime.cuda.slabs import with_axis
from gcis_runtime.labelling import LabelTask
from gcis_runtime.private_cache import open_cache
from gcis_runtime.restore import Restorer
from gcis_runtime.sessions.base import DeviceSession
from gcis_runtime.sink import LabelSink
from gcis_runtime.sums import Tile
from gcis_runtime.windows import read_planes


class GpuLabeller:
    """Blends on the session's GPU; see `Labeller`.

    Only labels come back where each of the file's voxels takes the nearest one, or the file has the network's
    grid; smooth boundaries, masks and probabilities need the margins.
    The time that the CPU waits for the GPU counts as `network`: blending runs there among the windows.

    Args:
        session: The network on a GPU.
        kernels: Our kernels on that GPU; None compiles them, or takes them from this user's cache.

    Raises:
        EngineError: The kernels cannot be compiled.
    """

    def __init__(self, session: DeviceSession, kernels: Kernels | None = None) -> None:
        self._session = session
        if kernels is None:
            session.gpu.activate()
            kernels = Kernels(session.gpu, cached_kernels(session.gpu.info.sm, open_cache()))
        self._kernels = kernels

    def label(self, task: LabelTask, sink: LabelSink, clock: StageClock) -> WindowCount:
        """See `Labeller.label`."""
        count = WindowCount()
        plan = task.plan
        smooth = task.restore == "smooth" and task.image.trace.to_file is not None
        margins = smooth or sink.wants_margins

        def rows(first: int, out: NDArray[np.float32]) -> None:
            with clock.stage("preprocess"):
                read_planes(task.image.box, plan, first, out, padding_value=task.padding_value)

        restorer = Restorer(plan=plan, trace=task.image.trace, values=task.values, smooth=smooth, sink=sink)
        blender = GpuBlender(
            self._session,
            self._kernels,
            plan,
            task.weights,
            channels=task.channels,
            values=None if margins else task.values,
        )
        try:
            with clock.stage("network"):
                for slab in blender.slabs(rows, count=count, done=task.done):
                    start = with_axis((0, 0, 0), plan.axis, slab.first)
                    with clock.stage("restore"):
                        if margins:
                            restorer.add(Tile(start=start, margins=slab.data))
                        else:
                            restorer.add_labels(start, slab.data)
        finally:
            blender.close()
        return count
