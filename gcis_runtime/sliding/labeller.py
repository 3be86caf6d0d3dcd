"""Label a preprocessed image on its native grid, slab by slab.

The stages are windows, blending, and mapping to the file grid. A `Labeller` takes a `LabelTask` and puts
boxes of labels into a `LabelSink`. `CpuLabeller` computes with NumPy, `cuda.labeller.GpuLabeller` on the
GPU that holds the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.choices import DEFAULT_RESTORE, Restore
from gcis_runtime.grids.preprocess import NetworkInput
from gcis_runtime.sliding.blend import Predictor, WindowCount, blend_tiles, reuse_constant
from gcis_runtime.sliding.label_sink import LabelSink
from gcis_runtime.sliding.native_grid import NativeGridMapper
from gcis_runtime.sliding.plan import WindowPlan, WindowReader
from gcis_runtime.sliding.schedule import make_schedule
from gcis_runtime.spec import Shape3
from gcis_runtime.system.stage_clock import StageClock
from gcis_runtime.system.worker_threads import workers

__all__ = ["DEFAULT_RESTORE", "STAGES", "CpuLabeller", "LabelTask", "Labeller", "Restore"]

STAGES = ("preprocess", "network", "blend", "restore")
"""Timed stages of a `Labeller`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelTask:
    """Image to label, and settings.

    Attributes:
        image: The network input, computed box by box.
        plan: Window plan on the network grid. Voxels that no window covers are background.
        weights: (X, Y, Z) blending weights of a window (`published.blending_weights`); zero where logits do
            not contribute.
        padding_value: Value outside the image.
        channels: Graph channels to use.
        values: Label value of each channel.
        restore: Mapping of labels to the native grid.
        on_disk: Carry unfinished sums over in a temporary file; ignored on a GPU.
        done: Callback that receives the number of finished windows.
    """

    image: NetworkInput
    plan: WindowPlan
    weights: NDArray[np.float32]
    padding_value: float
    channels: tuple[int, ...]
    values: tuple[int, ...]
    restore: Restore
    on_disk: bool = False
    done: Callable[[int], None] | None = None


class Labeller(Protocol):
    """Interface for labelling an image slab by slab.

    Attributes:
        least_free: Bytes of device memory that were free while the last volume held all its memory; None on
            the CPU and before the first volume.
    """

    least_free: int | None

    def label(self, task: LabelTask, sink: LabelSink, clock: StageClock) -> WindowCount:
        """Label an image, and put every voxel that is not background into `sink`.

        Args:
            task: The image and settings.
            sink: Destination of labels, and of masks and probabilities on request, box by box of the file
                grid.
            clock: Clock of the stages `preprocess`, `network`, `blend` and `restore`.

        Returns:
            Number of windows.

        Raises:
            EngineError: The engine failed, or its output is not finite.
        """
        ...


class CpuLabeller:
    """Blend and label with NumPy; see `Labeller`.

    Args:
        predict: The network.
        threads: CPU threads for blending, which alternates with the network. Labels do not depend on their
            number.
    """

    def __init__(self, predict: Predictor, *, threads: int = 1) -> None:
        self._predict, self._threads = predict, threads
        self.least_free: int | None = None

    def label(self, task: LabelTask, sink: LabelSink, clock: StageClock) -> WindowCount:
        """See `Labeller.label`."""
        count = WindowCount()
        predict = reuse_constant(self._predict, count)

        def run(window: NDArray[np.float32]) -> NDArray[np.float32]:
            with clock.stage("network"):
                output = predict(window)
            if task.done is not None:
                task.done(count.total)
            return output

        with workers(self._threads) as threads, clock.stage("blend"):
            mapper = NativeGridMapper(
                plan=task.plan,
                transform=task.image.transform,
                values=task.values,
                restore=task.restore,
                sink=sink,
                workers=threads,
            )
            reader = WindowReader(
                task.image.box, task.plan, padding_value=task.padding_value, workers=threads
            )

            def read(start: Shape3) -> NDArray[np.float32]:
                with clock.stage("preprocess"):
                    return reader(start)

            tiles = blend_tiles(
                make_schedule(task.plan), read, task.weights, run,
                channels=task.channels, workers=threads, on_disk=task.on_disk,
            )  # fmt: skip
            for tile in tiles:
                with clock.stage("restore"):
                    mapper.add(tile)
        return count
