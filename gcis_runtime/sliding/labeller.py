"""From a pre-processed image to labels on its file's grid: windows, blending, restoring, slab by slab.

`Labeller` is the seam: whatever computes where the logits are (numpy here, CUDA elsewhere) takes a
`LabelTask` and puts boxes of finished labels into a `LabelSink`.
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
from gcis_runtime.sliding.native_grid import Restorer
from gcis_runtime.sliding.plan import WindowPlan, WindowReader
from gcis_runtime.sliding.schedule import schedule
from gcis_runtime.spec import Shape3
from gcis_runtime.system.stage_clock import StageClock
from gcis_runtime.system.worker_threads import workers

__all__ = ["DEFAULT_RESTORE", "STAGES", "CpuLabeller", "LabelTask", "Labeller", "Restore"]

STAGES = ("preprocess", "network", "blend", "restore")
"""What a `Labeller` spends its time on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelTask:
    """What to segment, and how.

    Attributes:
        image: The image on the network's grid, computed a box at a time.
        plan: Window positions on that grid; what no window of it decides is background.
        weights: Blending weight of each voxel of a window, (X, Y, Z); zero where logits do not count.
        padding_value: What lies around an image that is smaller than a window.
        channels: Graph channels that take part.
        values: Label value of each of them.
        restore: How labels come to the file's grid.
        on_disk: Keep sums that wait for more windows in a temporary file; not on a GPU.
        done: Told the number of windows finished so far.
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
    """Computes labels slab by slab.

    Attributes:
        least_free: Free device memory in bytes when the last volume used the most; None on the CPU, and
            before the first volume.
    """

    least_free: int | None

    def label(self, task: LabelTask, sink: LabelSink, clock: StageClock) -> WindowCount:
        """Put every voxel that is not background into `sink`.

        Args:
            task: What to segment.
            sink: Takes labels, and masks where it wants them, a box of the file's grid at a time.
            clock: Adds up the stages `preprocess`, `network`, `blend` and `restore`.

        Returns:
            How many windows there were.

        Raises:
            EngineError: The engine failed or answered with a value that is not finite.
        """
        ...


class CpuLabeller:
    """Blends and restores with numpy; see `Labeller`.

    Args:
        predict: The network.
        threads: CPU threads that blend while the network waits; labels do not depend on them.
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
                answer = predict(window)
            if task.done is not None:
                task.done(count.total)
            return answer

        with workers(self._threads) as threads, clock.stage("blend"):
            restorer = Restorer(
                plan=task.plan,
                transform=task.image.transform,
                values=task.values,
                smooth=task.restore == "smooth",
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
                schedule(task.plan), read, task.weights, run,
                channels=task.channels, workers=threads, on_disk=task.on_disk,
            )  # fmt: skip
            for tile in tiles:
                with clock.stage("restore"):
                    restorer.add(tile)
        return count
