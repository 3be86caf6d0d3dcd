"""Run windows, blending and labels around a trivial predictor, a fixed amount of work that is counted.

`python -m benchmarks.counted.run [idle]` runs it once, for a tool that counts the instructions of a process;
with `idle` only the input is prepared.
"""

from __future__ import annotations

import dataclasses
import sys
import tracemalloc

import numpy as np
from numpy.typing import NDArray

from benchmarks.counted.trivial_predictor import WINDOW, levels, logit_terms
from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.images.volume import Volume
from gcis_runtime.sliding.blend import Predictor, WindowCount
from gcis_runtime.sliding.label_sink import LabelSink
from gcis_runtime.sliding.labeller import STAGES, CpuLabeller, LabelTask
from gcis_runtime.sliding.plan import plan_windows, window_weights
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_runtime.system.stage_clock import StageClock

STRUCTURES = 3
SHAPE = (100, 90, 80)
WINDOWS = WindowSpec(patch_size=(64, 64, 64))
SPEC = PreprocessSpec(orientation="RAS", spacing=(1.0, 1.0, 1.0), intensity_window=WINDOW)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Streamed:
    """Work of a run.

    Attributes:
        windows: Windows of the plan.
        reused: Windows of constant voxels that the predictor did not compute.
        labelled: Voxels with a label.
    """

    windows: int
    reused: int
    labelled: int


def volume() -> Volume:
    """Return a fixed volume: three blocks of different HU in air, voxels of 0.8 x 0.8 x 1 mm."""
    array = np.full(SHAPE, -1000, dtype=np.int16)
    for number, level in enumerate(levels(STRUCTURES)):
        array[20 + 20 * number : 36 + 20 * number, 20:60, 20:60] = round(level)
    return Volume(array=array, affine=np.diag([-0.8, -0.8, 1.0, 1.0]))


def stream(source: Volume) -> Streamed:
    """Label a volume window by window with numpy, in one thread."""
    image = preprocess(source, SPEC)
    values = tuple(range(1, STRUCTURES + 1))
    task = LabelTask(
        image=image,
        plan=plan_windows(image.transform.shape, WINDOWS),
        weights=window_weights(WINDOWS),
        padding_value=0.0,
        channels=tuple(range(STRUCTURES)),
        values=values,
        restore="smooth",
    )
    sink = LabelSink(transform=image.transform, shape=source.shape, values=values, masks=False)
    count: WindowCount = CpuLabeller(_predictor()).label(task, sink, StageClock(*STAGES))
    return Streamed(windows=count.total, reused=count.reused, labelled=int(np.count_nonzero(sink.labels)))


def allocated() -> int:
    """Return the peak of allocated bytes during a run, with numpy arrays but without the input volume."""
    source = volume()
    stream(source)  # exclude imports and caches of the first run
    tracemalloc.start()
    try:
        stream(source)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _predictor() -> Predictor:
    level, band = logit_terms(STRUCTURES)
    out = np.empty((1, STRUCTURES, *WINDOWS.patch_size), dtype=np.float32)

    def predict(window: NDArray[np.float32]) -> NDArray[np.float32]:
        np.abs(window[0, :1] - level[:, None, None, None], out=out[0])
        np.subtract(np.float32(band), out[0], out=out[0])
        return out

    return predict


if __name__ == "__main__":
    given = volume()
    if sys.argv[1:] != ["idle"]:
        stream(given)
