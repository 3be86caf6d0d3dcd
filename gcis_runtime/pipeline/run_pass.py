"""Run one volume through one engine once: preprocess, plan windows, forecast, compute labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.choices import Restore
from gcis_runtime.grids.box import Box
from gcis_runtime.grids.preprocess import NetworkInput, preprocess
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.footprint import RequestedOutputs
from gcis_runtime.pipeline.forecast import ExecutionPlan, Forecast, Sizes, choose_execution
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.pipeline.options import Callbacks, Progress, SegmentOptions
from gcis_runtime.regions.region import Region, oriented_boxes, windows_touching
from gcis_runtime.sliding.blend import WindowCount
from gcis_runtime.sliding.foreground_crop import WindowLayout, place_windows
from gcis_runtime.sliding.label_sink import LabelSink
from gcis_runtime.sliding.labeller import STAGES, LabelTask
from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.spec import PreprocessSpec, Shape3
from gcis_runtime.system.stage_clock import StageClock


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """The result of one pass of a volume through an engine.

    Attributes:
        sink: Labels, masks and probabilities.
        count: Numbers of windows.
        skipped: Number of windows outside the region.
        crop: The crop by the foreground rule, ready for JSON; empty without a rule.
        warnings: Warnings for the user.
        forecast: The forecast.
        restore: How labels were resampled to the volume's grid.
        clock: Seconds per stage.
        grid: Shape and affine of the network's grid.
    """

    sink: LabelSink
    count: WindowCount
    skipped: int
    crop: dict[str, Any]
    warnings: tuple[str, ...]
    forecast: Forecast
    restore: Restore
    clock: StageClock
    grid: tuple[Shape3, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Planned:
    """A preprocessed volume and the windows to run.

    Attributes:
        image: The image on the network's grid.
        layout: All windows, with the foreground crop.
        plan: The windows that the region needs.
        boxes: The region on the re-oriented file grid; None for the whole volume.
    """

    image: NetworkInput
    layout: WindowLayout
    plan: WindowPlan
    boxes: tuple[Box, ...] | None


def run_pass(
    engine: LoadedEngine,
    volume: Volume,
    options: SegmentOptions,
    *,
    channels: tuple[int, ...],
    weights: NDArray[np.float32],
    region: Region | None = None,
    spec: PreprocessSpec | None = None,
    callbacks: Callbacks | None = None,
) -> Pass:
    """Segment a volume, or a region of it, in one attempt. After an error, no partial result remains.

    Args:
        engine: The bundle in an engine.
        volume: The image.
        options: What to compute. `roi` and `coarse` are ignored here: the caller has resolved them to
            `region`.
        channels: Graph channels of the structures.
        weights: Blending weight of each voxel of a window, (X, Y, Z).
        region: Region in which labels are needed; None for the whole volume.
        spec: Preprocessing; None for the bundle's.
        callbacks: Functions that follow the computation.

    Raises:
        MemoryLimitError: More memory than `options` permit is needed.
        DeviceMemoryError: Memory ran out.
        EngineError: The engine failed, or returned a value that is not finite.
    """
    manifest = engine.bundle.manifest
    callbacks = callbacks or Callbacks()
    clock = StageClock(*STAGES)
    with clock.stage("preprocess"):
        planned = _plan(
            engine, volume, manifest.preprocess if spec is None else spec, weights,
            crop=options.body_crop is not False, region=region,
        )  # fmt: skip
    image, layout, plan = planned.image, planned.layout, planned.plan
    values = tuple(manifest.labels[channel].value for channel in channels)
    way, forecast = _choose(engine, volume, options, planned, values)
    if callbacks.on_forecast is not None:
        callbacks.on_forecast(forecast)
    sink = LabelSink(
        transform=image.transform, shape=volume.shape, values=values, masks=options.masks,
        probabilities=options.probabilities, within=planned.boxes,
    )  # fmt: skip
    task = LabelTask(
        image=image, plan=way.plan, weights=layout.weights, padding_value=manifest.window.padding_value,
        channels=channels, values=values, restore=way.restore, on_disk=way.on_disk,
        done=_counter(callbacks.on_progress, len(plan.starts)),
    )  # fmt: skip
    count = engine.labeller.label(task, sink, clock) if plan.starts else WindowCount()
    return Pass(
        sink=sink, count=count, skipped=len(layout.plan.starts) - len(plan.starts), crop=layout.report,
        warnings=layout.warnings, forecast=forecast, restore=way.restore, clock=clock,
        grid=(image.transform.shape, image.transform.affine),
    )  # fmt: skip


def _plan(
    engine: LoadedEngine,
    volume: Volume,
    spec: PreprocessSpec,
    weights: NDArray[np.float32],
    *,
    crop: bool,
    region: Region | None,
) -> _Planned:
    """Preprocess a volume, and plan the windows that a region needs."""
    image = preprocess(volume, spec)
    layout = place_windows(image, spec, engine.bundle.manifest.window, weights, crop=crop)
    if region is None:
        return _Planned(image=image, layout=layout, plan=layout.plan, boxes=None)
    boxes = oriented_boxes(region, image.transform, volume.shape)
    plan = windows_touching(layout.plan, image.transform, boxes)
    return _Planned(image=image, layout=layout, plan=plan, boxes=boxes)


def _choose(
    engine: LoadedEngine,
    volume: Volume,
    options: SegmentOptions,
    planned: _Planned,
    values: tuple[int, ...],
) -> tuple[ExecutionPlan, Forecast]:
    """Return how to run the windows within the memory limit, and the forecast."""
    outputs = RequestedOutputs(
        values=values, smooth=True, masks=options.masks, probabilities=options.probabilities
    )
    sizes = Sizes(transform=planned.image.transform, shape=volume.shape, requested=outputs)
    requested = ExecutionPlan(plan=planned.plan, restore=options.restore)
    return choose_execution(engine, sizes, requested, allowed=options.max_memory)


def _counter(progress: Progress | None, total: int) -> Callable[[int], None] | None:
    """Return a function that passes the number of finished windows and the total to `progress`."""
    return None if progress is None else lambda finished: progress(finished, total)
