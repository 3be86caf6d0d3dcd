"""Segment volumes with a bundle: `Segmenter.open(bundle).segment(volume)`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Unpack

from numpy.typing import ArrayLike, NDArray

from gcis_runtime.bundles.bundle import Bundle, alias_notes, open_bundle, select_labels
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.info import EngineInfo
from gcis_runtime.engines.options import EngineKeywords, EngineOptions
from gcis_runtime.errors import OutputError
from gcis_runtime.images.convert import ImageLike, as_volume
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.forecast import Forecast
from gcis_runtime.pipeline.identity import Identity
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.pipeline.measurements import device_peak, forecast_report, record_calibration
from gcis_runtime.pipeline.options import Callbacks, Progress, SegmentKeywords, SegmentOptions
from gcis_runtime.pipeline.positions import label_map_warnings
from gcis_runtime.pipeline.result import Segmentation, measure
from gcis_runtime.pipeline.run_pass import Pass, run_pass
from gcis_runtime.pipeline.warnings import (
    context_warnings,
    image_warnings,
    limit_warnings,
    nothing_found_warnings,
    post_warnings,
    untrained_warnings,
)
from gcis_runtime.platforms import nearest_rounding
from gcis_runtime.regions.coarse import DEFAULT_FACTOR, Coarse, coarse_spec, locate, matching_labels
from gcis_runtime.regions.resolve import Area, ResolvedArea, find_area
from gcis_runtime.regions.roi import parse_roi
from gcis_runtime.sliding.published import blending_weights
from gcis_runtime.spec import PreprocessSpec
from gcis_runtime.system.memory import peak_memory_bytes

__all__ = ["Progress", "Segmenter"]


class Segmenter:
    """A bundle loaded into an engine, ready for any number of volumes.

    A context manager. Several threads may share one: their calls of `segment` run one after another, and
    `close` waits for the running call.

    Args:
        engine: The bundle in an engine, which is closed with the segmenter.
        prompts: Structures to segment; all of the bundle's if empty.

    Attributes:
        bundle: The verified bundle.
        channels: Graph channels of the structures that are segmented.
    """

    def __init__(self, engine: LoadedEngine, *, prompts: Sequence[str] = ()) -> None:
        self.bundle = engine.bundle
        self.channels = select_labels(self.bundle.manifest, prompts)
        self._aliases = alias_notes(self.bundle.manifest, prompts)
        self._engine = engine
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        options: EngineOptions | None = None,
        prompts: Sequence[str] = (),
        **keywords: Unpack[EngineKeywords],
    ) -> Segmenter:
        """Open a bundle and load it into an engine.

        If memory is too small, a smaller window batch is loaded, then with engine `"auto"` another engine,
        then the CPU; `notes` and the `steps` of every result list each step.

        Args:
            bundle: A bundle, its folder, its name in the store, `"demo"`, or None for the bundle in the store
                that has `prompts` (the only bundle if `prompts` is empty).
            options: The engine.
            prompts: Structures to segment; all of the bundle's if empty.
            **keywords: Fields of `EngineOptions`, which replace those of `options`: `engine` (`"auto"`,
                `"onnx"`, `"openvino"`, `"trt"`, `"trt-rtx"`), `device` (`"cpu"`, `"cuda"`, `"cuda:1"`),
                `precision` (`"auto"`, `"fp32"`, `"bf16"`, `"fp16"`, `"int8"`), `threads` and `tf32`.

        Raises:
            BundleError: The bundle does not exist or is damaged.
            PromptError: The bundle does not have a prompt.
            EngineError: The options are invalid, or the engine cannot be opened on this machine.
            DeviceMemoryError: No permitted configuration fits into memory.
        """
        options = (options or EngineOptions()).updated(keywords)
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(find_bundle(bundle, prompts))
        select_labels(opened.manifest, prompts)  # before an engine takes seconds to load
        return cls(LoadedEngine.open(opened, options, opener=open_session), prompts=prompts)

    @property
    def engine(self) -> EngineInfo:
        """The engine that computes, with its version, device, precision and threads."""
        return self._engine.info

    @property
    def tf32(self) -> bool:
        """Whether products of float32 may round their factors."""
        return self._engine.tf32

    @property
    def identity(self) -> Identity:
        """The bundle, structures and engine that results depend on."""
        return Identity.of(self.bundle, self.channels, engine=self.engine, tf32=self.tf32)

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages from opening: the structures of aliases, or that an engine was built for this GPU."""
        return (*self._aliases, *self._engine.notes, *self._engine.steps)

    @nearest_rounding()
    def segment(
        self,
        image: ImageLike,
        *,
        affine: ArrayLike | None = None,
        options: SegmentOptions | None = None,
        progress: Progress | None = None,
        on_forecast: Callable[[Forecast], None] | None = None,
        **keywords: Unpack[SegmentKeywords],
    ) -> Segmentation:
        """Segment one CT volume.

        Args:
            image: HU: a `Volume`, a nibabel or SimpleITK image, the path of a file, or an array (X, Y, Z)
                with its `affine`. It is not changed.
            affine: (4, 4), voxel index to RAS+ mm; only for an array.
            options: What to compute.
            progress: Called after each window with the numbers of finished and of all windows.
            on_forecast: Called with the forecast before the volume starts, and again after each fallback.
            **keywords: Fields of `SegmentOptions`, which replace those of `options`: `restore`, `masks`,
                `probabilities`, `roi`, `coarse`, `body_crop`, `max_memory`, `raw` and `straighten`.

        Returns:
            The label map on the volume's own grid, with measurements and times.

        Raises:
            ImageError: The image cannot be used.
            EngineError: The engine failed, returned a value that is not finite, or is closed.
            DeviceMemoryError: Memory ran out with every permitted configuration.
            MemoryLimitError: More than `max_memory` would be needed.
            PromptError: `roi` names a structure that the bundle does not have.
            OutputError: An option is invalid.
        """
        options = replace(options or SegmentOptions(), **keywords)
        if options.coarse is self:
            raise OutputError("a segmenter cannot be its own coarse pass", fix="Give a factor, such as 2.")
        area = self._area(options)
        volume = as_volume(image, affine=affine)
        callbacks = Callbacks(on_progress=progress, on_forecast=on_forecast)
        with self._lock:
            self._engine.require_open()
            return self._segment(volume, options, area, callbacks)

    def _area(self, options: SegmentOptions) -> Area:
        """Return the part of a volume that the options limit the computation to."""
        manifest = self.bundle.manifest
        return Area(
            roi=None if options.roi is None else parse_roi(options.roi, manifest),
            coarse=options.coarse is not None,
            body_crop=options.body_crop is True and manifest.preprocess.crop is None,
        )

    def _segment(
        self, volume: Volume, options: SegmentOptions, area: Area, callbacks: Callbacks
    ) -> Segmentation:
        engine = self._engine
        peak = peak_memory_bytes()
        part = find_area(volume, area, self.channels, partial(self._locate, volume, options))
        weights = blending_weights(self.bundle.manifest.window, options.restore)
        begun = time.perf_counter()
        found, lost = engine.until_it_fits(
            lambda: run_pass(
                engine, volume, options, channels=self.channels, weights=weights,
                region=part.region, callbacks=callbacks,
            )
        )  # fmt: skip
        if lost:
            found.clock.seconds["lost"] = lost
        device = device_peak(engine)
        if part.region is None:  # resampling a part takes less time than the number of voxels suggests
            record_calibration(engine, found.clock.seconds, voxels=volume.array.size, count=found.count)
        forecast = forecast_report(found.forecast, time.perf_counter() - begun, device)
        return self._result(volume, found, part, forecast, peak_before=peak)

    def _locate(self, volume: Volume, options: SegmentOptions, channels: Sequence[int]) -> Coarse:
        """Find structures in a coarse pass, by another segmenter or by this one's engine."""
        labels = [self.bundle.manifest.labels[channel] for channel in channels]
        other = options.coarse_segmenter
        if other is not None:
            others = matching_labels(labels, other.bundle.manifest)
            names = {o.value: label.name for o, label in zip(others, labels, strict=True)}
            spec, how = other.bundle.manifest.preprocess, f"bundle {other.bundle.name!r}"
            return locate(volume, partial(other.find, volume, options, names), names, how=how, spec=spec)
        factor = options.coarse_factor or DEFAULT_FACTOR
        spec = coarse_spec(volume, self.bundle.manifest.preprocess, factor)
        names = {label.value: label.name for label in labels}
        run = partial(self._find, volume, options, tuple(channels), spec)
        return locate(volume, run, names, how=f"voxels {factor:g} times as large", spec=spec)

    def find(
        self, volume: Volume, options: SegmentOptions, values: Collection[int]
    ) -> tuple[NDArray[Any], int]:
        """Segment structures for the coarse pass of another segmenter; see `CoarseSegmenter.find`."""
        labels = self.bundle.manifest.labels
        channels = tuple(c for c, label in enumerate(labels) if label.value in values)
        with self._lock:
            return self._find(volume, options, channels, self.bundle.manifest.preprocess)

    def _find(
        self, volume: Volume, options: SegmentOptions, channels: tuple[int, ...], spec: PreprocessSpec
    ) -> tuple[NDArray[Any], int]:
        engine = self._engine
        labels_only = SegmentOptions(
            restore="nearest", body_crop=options.body_crop, max_memory=options.max_memory, raw=True,
            straighten=options.straighten,
        )  # fmt: skip
        weights = blending_weights(self.bundle.manifest.window, labels_only.restore)
        found, _ = engine.until_it_fits(
            lambda: run_pass(engine, volume, labels_only, channels=channels, weights=weights, spec=spec)
        )
        return found.sink.labels, found.count.total

    def _result(
        self,
        volume: Volume,
        found: Pass,
        part: ResolvedArea,
        forecast: Mapping[str, Any],
        *,
        peak_before: int | None,
    ) -> Segmentation:
        manifest, sink = self.bundle.manifest, found.sink
        labels = [manifest.labels[channel] for channel in self.channels]
        return Segmentation(
            labels=sink.labels,
            masks=found.masks(),
            probabilities=sink.probabilities(),
            volume=volume,
            structures=measure(sink.counts(), labels, voxel_ml=volume.voxel_ml, changes=found.changes),
            restore=found.restore,
            seconds=part.seconds | found.clock.seconds,
            windows=found.count.total,
            windows_reused=found.count.reused,
            windows_skipped=found.skipped,
            region=part.report,
            crop=found.crop,
            straightened=found.straightened,
            forecast=dict(forecast),
            steps=(*self._engine.steps, *found.forecast.steps),
            peak_memory=peak_memory_bytes(),
            engine=self.engine,
            bundle=self.bundle.name,
            bundle_sha256=self.bundle.sha256,
            notice=manifest.notice,
            warnings=(
                *volume.notes,
                *found.warnings,
                *part.warnings,
                *part.gain_warnings(found.skipped),
                *image_warnings(volume, straightened=bool(found.straightened)),
                *context_warnings(*found.grid, manifest.window),
                *nothing_found_warnings(labels, sink.counts()),
                *label_map_warnings(labels, sink.labels, volume.affine),
                *untrained_warnings(manifest, self.channels),
                *post_warnings(labels, sink.counts(), found.changes, part=part.region is not None),
                *limit_warnings(peak_before, peak_memory_bytes(), found.forecast.allowed_bytes),
            ),
        )

    def close(self) -> None:
        """Free the engine, once no thread is using it; closing again does nothing."""
        with self._lock:
            self._engine.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
