"""Run one volume through one engine once: preprocess, plan windows, forecast, compute labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.choices import Restore
from gcis_runtime.grids.box import Box
from gcis_runtime.grids.preprocess import NetworkInput, preprocess
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.footprint import RequestedOutputs
from gcis_runtime.pipeline.forecast import ExecutionPlan, Forecast, Sizes, choose_execution
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.pipeline.options import Callbacks, Progress, SegmentOptions
from gcis_runtime.pipeline.post import PostChange, PostProcess
from gcis_runtime.regions.region import Region, oriented_boxes, windows_touching
from gcis_runtime.sliding.blend import WindowCount
from gcis_runtime.sliding.foreground_crop import WindowLayout, place_windows
from gcis_runtime.sliding.label_sink import LabelSink, StructureMaps
from gcis_runtime.sliding.labeller import STAGES, LabelTask
from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.spec import PreprocessSpec, Shape3
from gcis_runtime.system.stage_clock import StageClock


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """The result of one pass of a volume through an engine.

    Attributes:
        sink: Labels after post-processing, masks and probabilities before.
        post: Rules that were applied to the labels.
        changes: What the rules changed, by label value.
        count: Numbers of windows.
        skipped: Number of windows outside the region.
        crop: The crop by the foreground rule, ready for JSON; empty without a rule.
        warnings: Warnings for the user.
        forecast: The forecast.
        restore: How labels were resampled to the volume's grid.
        clock: Seconds per stage.
        grid: Shape and affine of the network's grid.
        straightened: Angle in degrees by which the image was straightened; None if it was not.
    """

    sink: LabelSink
    post: PostProcess
    changes: Mapping[int, PostChange]
    count: WindowCount
    skipped: int
    crop: dict[str, Any]
    warnings: tuple[str, ...]
    forecast: Forecast
    restore: Restore
    clock: StageClock
    grid: tuple[Shape3, NDArray[np.float64]]
    straightened: float | None

    def masks(self) -> StructureMaps | None:
        """Return the masks after post-processing, or None if masks are not stored."""
        found = self.sink.masks()
        return None if found is None else found.changed(self.post.clean_mask)


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
            crop=options.body_crop is not False, straighten=options.straighten, region=region,
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
    post = _post(manifest, options, channels, volume)
    changes = post.clean(sink.labels, clock)
    return Pass(
        sink=sink, post=post, changes=changes, count=count,
        skipped=len(layout.plan.starts) - len(plan.starts), crop=layout.report,
        warnings=layout.warnings, forecast=forecast, restore=way.restore, clock=clock,
        grid=(image.transform.shape, image.transform.affine), straightened=image.transform.straightened,
    )  # fmt: skip


def _post(
    manifest: Manifest, options: SegmentOptions, channels: tuple[int, ...], volume: Volume
) -> PostProcess:
    """Return the post-processing of a volume; without rules if `options` omits them."""
    labels = () if options.raw else tuple(manifest.labels[channel] for channel in channels)
    return PostProcess(labels=labels, voxel_ml=volume.voxel_ml)


def _plan(
    engine: LoadedEngine,
    volume: Volume,
    spec: PreprocessSpec,
    weights: NDArray[np.float32],
    *,
    crop: bool,
    straighten: bool,
    region: Region | None,
) -> _Planned:
    """Preprocess a volume, and plan the windows that a region needs."""
    image = preprocess(volume, spec, straighten=straighten)
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
    manifest = engine.bundle.manifest
    outputs = RequestedOutputs(
        values=values, smooth=True, masks=options.masks, probabilities=options.probabilities,
        post=not options.raw and any(label.post for label in manifest.labels if label.value in values),
    )  # fmt: skip
    sizes = Sizes(transform=planned.image.transform, shape=volume.shape, requested=outputs)
    requested = ExecutionPlan(plan=planned.plan, restore=options.restore)
    return choose_execution(engine, sizes, requested, allowed=options.max_memory)


def _counter(progress: Progress | None, total: int) -> Callable[[int], None] | None:
    """Return a function that passes the number of finished windows and the total to `progress`."""
    return None if progress is None else lambda finished: progress(finished, total)
