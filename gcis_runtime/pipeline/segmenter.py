"""The whole line in one object: `Segmenter.open(bundle).segment(volume)`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from types import TracebackType
from typing import Any

from numpy.typing import ArrayLike, NDArray

from gcis_runtime.bundles.bundle import Bundle, open_bundle, select_labels
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.info import EngineInfo
from gcis_runtime.engines.memory_fallback import Ladder, Opening
from gcis_runtime.engines.session import Session
from gcis_runtime.errors import OutputError
from gcis_runtime.images.convert import ImageLike, as_volume
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.forecast import Forecast
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.pipeline.measurements import device_peak, forecast_report, record_calibration
from gcis_runtime.pipeline.result import Segmentation, measure
from gcis_runtime.pipeline.run_pass import Pass, Progress, Request, run_pass, until_it_fits
from gcis_runtime.pipeline.warnings import context_warnings, intensity_warnings, limit_warnings
from gcis_runtime.regions.coarse import (
    DEFAULT_FACTOR,
    Coarse,
    check_factor,
    coarse_spec,
    locate,
    matching_labels,
)
from gcis_runtime.regions.resolve import Area, ResolvedArea, find_area
from gcis_runtime.regions.roi import parse_roi
from gcis_runtime.sliding.labeller import DEFAULT_RESTORE, Restore
from gcis_runtime.sliding.plan import window_weights
from gcis_runtime.spec import PreprocessSpec
from gcis_runtime.system.memory import peak_memory_bytes

__all__ = ["Progress", "Segmenter"]


class Segmenter:
    """A bundle loaded into an engine, ready for any number of volumes.

    A context manager. Threads may share one: their calls of `segment` take turns, and `close` waits for them.

    Attributes:
        bundle: The verified bundle.
        channels: Graph channels of the structures that are segmented.
        tf32: Whether products of float32 may round their factors.
    """

    def __init__(
        self,
        *,
        bundle: Bundle,
        session: Session,
        prompts: Sequence[str] = (),
        ladder: Ladder | None = None,
    ) -> None:
        self.bundle = bundle
        self.channels = select_labels(bundle.manifest, prompts)
        self.tf32 = ladder is not None and ladder.asked.tf32
        self._engine = LoadedEngine(bundle, session, ladder)
        self._weights = window_weights(bundle.manifest.window)
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        engine: str = "auto",
        device: str = "cpu",
        precision: str = "auto",
        prompts: Sequence[str] = (),
        threads: int | None = None,
        tf32: bool = False,
    ) -> Segmenter:
        """Open a bundle and load it into an engine.

        Args:
            bundle: A bundle, its folder, its name in the store, `"demo"`, or None for the one in the store
                that has `prompts` (the only one when none is named).
            engine: `"auto"`, `"onnx"`, `"openvino"`, `"trt"` or `"trt-rtx"`.
            device: `"cpu"`, `"cuda"` or `"cuda:1"`.
            precision: `"auto"`, `"fp32"`, `"bf16"`, `"fp16"` or `"int8"`.
            prompts: Structures of the bundle to segment; all when empty.
            threads: CPU threads; None counts what the process may use.
            tf32: ONNX Runtime on a GPU: let float32 products round their factors to 11 bits.

        Where memory does not suffice, a smaller window batch is loaded, then with engine `"auto"` another
        engine, then the CPU; `notes` and every result's `steps` say so.

        Raises:
            BundleError: No such bundle, or a damaged one.
            PromptError: A prompt that the bundle does not have.
            EngineError: The engine or device cannot be had.
            DeviceMemoryError: Memory did not suffice for anything that was allowed.
        """
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(find_bundle(bundle, prompts))
        select_labels(opened.manifest, prompts)  # before an engine spends seconds on loading
        opening = Opening(engine=engine, device=device, precision=precision, threads=threads, tf32=tf32)
        ladder = Ladder(opened, opening, opener=open_session)
        return cls(bundle=opened, session=ladder.open(), prompts=prompts, ladder=ladder)

    @property
    def engine(self) -> EngineInfo:
        """The engine that runs, with its version, device, precision and threads."""
        return self._engine.info

    @property
    def notes(self) -> tuple[str, ...]:
        """What opening the engine did that the user should know, such as building one for this GPU."""
        return (*self._engine.notes, *self._engine.steps)

    def segment(
        self,
        image: ImageLike,
        *,
        affine: ArrayLike | None = None,
        restore: Restore = DEFAULT_RESTORE,
        masks: bool = False,
        probabilities: bool = False,
        roi: str | os.PathLike[str] | None = None,
        coarse: float | Segmenter | None = None,
        body_crop: bool | None = None,
        max_memory: int | None = None,
        progress: Progress | None = None,
        on_forecast: Callable[[Forecast], None] | None = None,
    ) -> Segmentation:
        """Segment one CT volume.

        Args:
            image: HU: a `Volume`, a nibabel or SimpleITK image, the path of a file, or an array (X, Y, Z)
                with its `affine`. It is not changed.
            affine: (4, 4), voxel index to RAS+ mm; only for an array.
            restore: How labels come to the volume's grid: `"smooth"` or `"nearest"`.
            masks: Keep a mask of each structure too, which may overlap others.
            probabilities: Keep the foreground probability of each structure too.
            roi: Only part of the volume: voxel ranges `"x0:x1,y0:y1,z0:z1"`, a mask's file, or a structure's
                name (see `roi.parse_roi`). Labels inside are those of the whole run, bit for bit; outside,
                everything is background.
            coarse: Only near what a coarse pass finds: the factor by which its voxels are larger, or a
                segmenter of another bundle.
            body_crop: Crop to what is not air. None: as the bundle's foreground rule says, if it has one,
                which is exact: its network was trained so. True without a rule: only around the body that is
                found; outside, everything is background. False: windows lie on the whole image.
            max_memory: Most memory that the process may have resident, bytes: what is predicted to need
                more is stepped down (`Segmentation.steps`) or refused; None: any.
            progress: Told of every finished window.
            on_forecast: Told what the volume will take, before it starts, and again after every fall back.

        Returns:
            The label map on the volume's own grid, with measures and times.

        Raises:
            ImageError: The image cannot be used.
            EngineError: The engine failed, answered with a value that is not finite, or is closed.
            DeviceMemoryError: Memory ran out with every engine that was allowed.
            MemoryLimitError: More than `max_memory` would be needed.
            PromptError: A region by a structure that the bundle does not have.
            OutputError: Another way to restore labels than these, or no factor or amount of memory.
        """
        if coarse is self:
            raise OutputError("a segmenter is no coarse pass of its own", fix="Give a factor, such as 2.")
        if coarse is not None and not isinstance(coarse, Segmenter):
            check_factor(coarse)
        where = None if roi is None else parse_roi(roi, self.bundle.manifest)
        body_crop = None if body_crop is None else bool(body_crop)  # NumPy's booleans are others
        search = body_crop is True and self.bundle.manifest.preprocess.crop is None
        area = Area(roi=where, coarse=coarse is not None, body_crop=search)
        request = Request(
            restore=restore,
            masks=masks,
            probabilities=probabilities,
            foreground=body_crop is not False,
            max_memory=max_memory,
            progress=progress,
            on_forecast=on_forecast,
        )
        volume = as_volume(image, affine=affine)
        with self._lock:
            self._engine.require_open()
            return self._segment(volume, request, area, coarse)

    def _segment(
        self, volume: Volume, request: Request, area: Area, coarse: float | Segmenter | None
    ) -> Segmentation:
        engine = self._engine
        peak = peak_memory_bytes()
        part = find_area(volume, area, self.channels, partial(self._locate, volume, request, coarse))
        begun = time.perf_counter()
        found = until_it_fits(
            engine,
            lambda: run_pass(
                engine, volume, request, channels=self.channels, weights=self._weights, region=part.region
            ),
        )
        device = device_peak(engine)
        if part.region is None:  # restoring a part takes less time than the file's voxels say
            record_calibration(engine, found.clock.seconds, voxels=volume.array.size, count=found.count)
        forecast = forecast_report(found.forecast, time.perf_counter() - begun, device)
        return self._result(volume, found, part, forecast, peak_before=peak)

    def _locate(
        self, volume: Volume, request: Request, coarse: float | Segmenter | None, channels: Sequence[int]
    ) -> Coarse:
        """Find structures in a coarse pass, by another segmenter or this one's engine."""
        labels = [self.bundle.manifest.labels[channel] for channel in channels]
        if isinstance(coarse, Segmenter):
            others = matching_labels(labels, coarse.bundle.manifest)
            names = {o.value: label.name for o, label in zip(others, labels, strict=True)}
            spec, how = coarse.bundle.manifest.preprocess, f"bundle {coarse.bundle.name!r}"
            return locate(volume, partial(coarse.find, volume, request, names), names, how=how, spec=spec)
        factor = DEFAULT_FACTOR if coarse is None else coarse
        spec = coarse_spec(volume, self.bundle.manifest.preprocess, factor)
        names = {label.value: label.name for label in labels}
        run = partial(self._find, volume, request, tuple(channels), spec)
        return locate(volume, run, names, how=f"voxels {factor:g} times as large", spec=spec)

    def find(self, volume: Volume, request: Request, values: Collection[int]) -> tuple[NDArray[Any], int]:
        """Return a label map of some structures for another segmenter's coarse pass, and its windows."""
        labels = self.bundle.manifest.labels
        channels = tuple(c for c, label in enumerate(labels) if label.value in values)
        with self._lock:
            return self._find(volume, request, channels, self.bundle.manifest.preprocess)

    def _find(
        self, volume: Volume, request: Request, channels: tuple[int, ...], spec: PreprocessSpec
    ) -> tuple[NDArray[Any], int]:
        engine = self._engine
        request = Request(restore="nearest", foreground=request.foreground, max_memory=request.max_memory)
        found = until_it_fits(
            engine,
            lambda: run_pass(engine, volume, request, channels=channels, weights=self._weights, spec=spec),
        )
        return found.sink.labels, found.count.total

    def _result(
        self,
        volume: Volume,
        found: Pass,
        part: ResolvedArea,
        forecast: dict[str, Any],
        *,
        peak_before: int | None,
    ) -> Segmentation:
        manifest, sink = self.bundle.manifest, found.sink
        labels = [manifest.labels[channel] for channel in self.channels]
        return Segmentation(
            labels=sink.labels,
            masks=sink.masks(),
            probabilities=sink.probabilities(),
            volume=volume,
            structures=measure(sink.counts(), labels, voxel_ml=volume.voxel_ml),
            restore=found.restore,
            seconds=part.seconds | found.clock.seconds,
            windows=found.count.total,
            windows_reused=found.count.reused,
            windows_skipped=found.skipped,
            region=part.report,
            crop=found.crop,
            forecast=forecast,
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
                *intensity_warnings(volume.array),
                *context_warnings(*found.grid, manifest.window),
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
