"""One volume through one engine: what is wanted, forecast, windows, labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.engines.memory_fallback import OUT_OF_MEMORY, reason_of
from gcis_runtime.errors import OutputError
from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.footprint import RequestedOutputs
from gcis_runtime.pipeline.forecast import ExecutionPlan, Forecast, Sizes, choose_execution
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.regions.region import Region, oriented_boxes, windows_touching
from gcis_runtime.sliding.blend import WindowCount
from gcis_runtime.sliding.foreground_crop import place_windows
from gcis_runtime.sliding.label_sink import LabelSink
from gcis_runtime.sliding.labeller import DEFAULT_RESTORE, STAGES, LabelTask, Restore
from gcis_runtime.spec import PreprocessSpec
from gcis_runtime.system.stage_clock import StageClock

Progress = Callable[[int, int], None]
"""Called with windows finished and windows in all."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is wanted of a volume. Valid, or it does not exist.

    Attributes:
        restore: How labels come to the volume's grid.
        masks: Keep a mask of each structure.
        probabilities: Keep the foreground probability of each structure.
        foreground: Follow the pre-processing's foreground rule, if it has one.
        max_memory: Most memory that the process may have resident, bytes; None: any.
        progress: Told of every finished window.
        on_forecast: Told what the volume will take, before it starts.
    """

    restore: Restore = DEFAULT_RESTORE
    masks: bool = False
    probabilities: bool = False
    foreground: bool = True
    max_memory: int | None = None
    progress: Progress | None = None
    on_forecast: Callable[[Forecast], None] | None = None

    def __post_init__(self) -> None:
        if self.restore not in get_args(Restore):
            raise OutputError(
                "unknown way to restore labels",
                received=repr(self.restore),
                expected=" or ".join(get_args(Restore)),
            )
        limit: object = self.max_memory
        known = isinstance(limit, int | float | np.number) and not isinstance(limit, bool)
        if self.max_memory is not None and not (known and self.max_memory > 0):
            raise OutputError(
                "not an amount of memory", received=repr(limit), expected="bytes, such as 2 << 30 for 2 GiB"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """What one way of a volume through an engine gave.

    Attributes:
        sink: Labels, masks and probabilities.
        count: Windows.
        skipped: Windows that lay outside the region.
        crop: What the foreground rule cropped, ready for JSON; empty without one.
        warnings: What the user should know.
        forecast: What was expected.
        restore: How labels came to the volume's grid.
        clock: Time of each stage.
        grid: The network's grid: shape and affine.
    """

    sink: LabelSink
    count: WindowCount
    skipped: int
    crop: dict[str, Any]
    warnings: tuple[str, ...]
    forecast: Forecast
    restore: Restore
    clock: StageClock
    grid: tuple[tuple[int, int, int], NDArray[np.float64]]


def run_pass(
    engine: LoadedEngine,
    volume: Volume,
    request: Request,
    *,
    channels: tuple[int, ...],
    weights: NDArray[np.float32],
    region: Region | None = None,
    spec: PreprocessSpec | None = None,
) -> Pass:
    """Segment a volume, or a region of it, without looking back: an error leaves nothing behind.

    Args:
        engine: The bundle in an engine.
        volume: The image.
        request: What is wanted.
        channels: Graph channels of the structures.
        weights: Blending weight of each voxel of a window, (X, Y, Z).
        region: Where labels are wanted; None: everywhere.
        spec: Another pre-processing than the bundle's.

    Raises:
        MemoryLimitError: It would take more memory than `request` allows.
        DeviceMemoryError: Memory ran out.
        EngineError: The engine failed, or answered with a value that is not finite.
    """
    manifest = engine.bundle.manifest
    clock = StageClock(*STAGES)
    spec = manifest.preprocess if spec is None else spec
    with clock.stage("preprocess"):
        image = preprocess(volume, spec)
        laid = place_windows(image, spec, manifest.window, weights, crop=request.foreground)
    plan = laid.plan
    boxes = None if region is None else oriented_boxes(region, image.transform, volume.shape)
    if boxes is not None:
        plan = windows_touching(plan, image.transform, boxes)
    values = tuple(manifest.labels[channel].value for channel in channels)
    requested = RequestedOutputs(
        values=values, smooth=True, masks=request.masks, probabilities=request.probabilities
    )
    sizes = Sizes(transform=image.transform, shape=volume.shape, requested=requested)
    way, forecast = choose_execution(
        engine, sizes, ExecutionPlan(plan=plan, restore=request.restore), allowed=request.max_memory
    )
    if request.on_forecast is not None:
        request.on_forecast(forecast)
    sink = LabelSink(
        transform=image.transform, shape=volume.shape, values=values, masks=request.masks,
        probabilities=request.probabilities, within=boxes,
    )  # fmt: skip
    total = len(plan.starts)
    progress = request.progress
    task = LabelTask(
        image=image,
        plan=way.plan,
        weights=laid.weights,
        padding_value=manifest.window.padding_value,
        channels=channels,
        values=values,
        restore=way.restore,
        on_disk=way.on_disk,
        done=None if progress is None else lambda finished: progress(finished, total),
    )
    count = engine.labeller.label(task, sink, clock) if total else WindowCount()
    return Pass(
        sink=sink,
        count=count,
        skipped=len(laid.plan.starts) - total,
        crop=laid.report,
        warnings=laid.warnings,
        forecast=forecast,
        restore=way.restore,
        clock=clock,
        grid=(image.transform.shape, image.transform.affine),
    )


def until_it_fits(engine: LoadedEngine, work: Callable[[], Pass]) -> Pass:
    """Do `work`; whenever memory runs out, again with an engine that needs less, until none is left.

    Every attempt begins anew: nothing of a failed one is kept.

    Args:
        engine: What `work` computes with; another session is in it after a step.
        work: Runs a pass.

    Raises:
        DeviceMemoryError: Memory ran out, and nothing that needs less can be had.
        MemoryError: The same, where nothing could be tried.
    """
    engine.reopen()
    lost = 0.0
    while True:
        begun = time.perf_counter()
        try:
            found = work()
        except OUT_OF_MEMORY as error:
            if not engine.can_lower:
                if not engine.steps:
                    raise
                raise engine.exhausted(reason_of(error)) from error
            reason = reason_of(error)  # not the error, whose traceback keeps the arrays of the attempt
        else:
            if lost:
                found.clock.seconds["lost"] = lost
            return found
        engine.lower(reason)
        lost += time.perf_counter() - begun
