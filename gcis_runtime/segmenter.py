"""The whole line in one object: `Segmenter.open(bundle).segment(volume)`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gcis_runtime.bundle import Bundle, open_bundle, select_labels
from gcis_runtime.clock import StageClock
from gcis_runtime.cpus import usable_cpus
from gcis_runtime.errors import EngineError, OutputError
from gcis_runtime.images import ImageLike, as_volume
from gcis_runtime.labelling import DEFAULT_RESTORE, STAGES, CpuLabeller, Labeller, LabelTask, Restore
from gcis_runtime.metrics import context_warnings, intensity_warnings, peak_memory_bytes
from gcis_runtime.preprocess import preprocess
from gcis_runtime.segmentation import EngineInfo, Segmentation, measure
from gcis_runtime.sessions import DeviceSession, Session, open_session
from gcis_runtime.sink import LabelSink
from gcis_runtime.store import find_bundle
from gcis_runtime.volume import Volume
from gcis_runtime.windows import plan_windows, window_weights

Progress = Callable[[int, int], None]
"""Called with windows finished and windows in all."""


class Segmenter:
    """A bundle loaded into an engine, ready for any number of volumes.

    A context manager. Threads may share one: their calls of `segment` take turns, and `close` waits for them.

    Attributes:
        bundle: The verified bundle.
        channels: Graph channels of the structures that are segmented.
    """

    def __init__(self, *, bundle: Bundle, session: Session, prompts: Sequence[str] = ()) -> None:
        self.bundle = bundle
        self.channels = select_labels(bundle.manifest, prompts)
        self._session = session
        self._labeller = self._make_labeller()
        self._weights = window_weights(bundle.manifest.window)
        self._lock = threading.Lock()
        self._closed = False

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
    ) -> Segmenter:
        """Open a bundle and load it into an engine.

        Args:
            bundle: A bundle, its folder, its name in the store, `"demo"`, or None for the one in the store
                that has `prompts` (the only one when none is named).
            engine: `"auto"`, `"onnx"` or `"openvino"`.
            device: `"cpu"`, `"cuda"` or `"cuda:1"`.
            precision: `"auto"`, `"fp32"` or `"bf16"`.
            prompts: Structures of the bundle to segment; all when empty.
            threads: CPU threads; None counts what the process may use.

        Raises:
            BundleError: No such bundle, or a damaged one.
            PromptError: A prompt that the bundle does not have.
            EngineError: The engine or device cannot be had.
        """
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(find_bundle(bundle, prompts))
        select_labels(opened.manifest, prompts)  # before an engine spends seconds on loading
        session = open_session(opened, engine=engine, device=device, precision=precision, threads=threads)
        return cls(bundle=opened, session=session, prompts=prompts)

    @property
    def engine(self) -> EngineInfo:
        """The engine that runs, with its version, device, precision and threads."""
        s = self._session
        return EngineInfo(
            name=s.name, version=s.version, device=s.device, precision=s.precision, threads=s.threads
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What opening the engine did that the user should know, such as building one for this GPU."""
        return self._session.notes

    def segment(
        self,
        image: ImageLike,
        *,
        affine: ArrayLike | None = None,
        restore: Restore = DEFAULT_RESTORE,
        masks: bool = False,
        probabilities: bool = False,
        progress: Progress | None = None,
    ) -> Segmentation:
        """Segment one CT volume.

        Args:
            image: HU: a `Volume`, a nibabel or SimpleITK image, or an array (X, Y, Z) with its `affine`. It
                is not changed.
            affine: (4, 4), voxel index to RAS+ mm; only for an array.
            restore: How labels come to the volume's grid: `"smooth"` or `"nearest"`.
            masks: Keep a mask of each structure too, which may overlap others.
            probabilities: Keep the foreground probability of each structure too.
            progress: Told of every finished window.

        Returns:
            The label map on the volume's own grid, with measures and times.

        Raises:
            ImageError: The image cannot be used.
            EngineError: The engine failed, answered with a value that is not finite, or is closed.
            OutputError: Another way to restore labels than these.
        """
        if restore not in get_args(Restore):
            raise OutputError(
                "unknown way to restore labels",
                received=repr(restore),
                expected=" or ".join(get_args(Restore)),
            )
        volume = as_volume(image, affine=affine)
        with self._lock:
            if self._closed:
                raise EngineError("the segmenter is closed", fix="Open the bundle again.")
            return self._segment(volume, restore, masks, probabilities, progress)

    def _segment(
        self,
        volume: Volume,
        restore: Restore,
        masks: bool,
        probabilities: bool,
        progress: Progress | None,
    ) -> Segmentation:
        manifest = self.bundle.manifest
        clock = StageClock(*STAGES)
        with clock.stage("preprocess"):
            image = preprocess(volume, manifest.preprocess)
        plan = plan_windows(image.trace.shape, manifest.window)
        labels = [manifest.labels[channel] for channel in self.channels]
        values = tuple(label.value for label in labels)
        sink = LabelSink(
            trace=image.trace, shape=volume.shape, values=values, masks=masks, probabilities=probabilities
        )
        total = len(plan.starts)
        task = LabelTask(
            image=image,
            plan=plan,
            weights=self._weights,
            padding_value=manifest.window.padding_value,
            channels=self.channels,
            values=values,
            restore=restore,
            done=None if progress is None else lambda finished: progress(finished, total),
        )
        count = self._labeller.label(task, sink, clock)
        return Segmentation(
            labels=sink.labels,
            masks=sink.masks(),
            probabilities=sink.probabilities(),
            volume=volume,
            structures=measure(sink.counts(), labels, voxel_ml=volume.voxel_ml),
            restore=restore,
            seconds=clock.seconds,
            windows=count.total,
            windows_reused=count.reused,
            peak_memory=peak_memory_bytes(),
            engine=self.engine,
            bundle=self.bundle.name,
            bundle_sha256=self.bundle.sha256,
            notice=manifest.notice,
            warnings=(
                *volume.notes,
                *intensity_warnings(volume.array),
                *context_warnings(image.trace.shape, image.trace.affine, manifest.window),
            ),
        )

    def _make_labeller(self) -> Labeller:
        """Blend where the logits are: on the GPU for a session there."""
        if not isinstance(self._session, DeviceSession):
            return CpuLabeller(self._run, threads=self._session.threads or usable_cpus())
        from gcis_runtime.cuda.labeller import GpuLabeller  # noqa: PLC0415 (only where a GPU is)

        return GpuLabeller(self._session)

    def _run(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network and refuse an answer that would silently become background."""
        margins = self._session.run(window)
        if not np.isfinite(margins).all():
            raise EngineError(
                f"{self._session.name} answered with values that are not finite",
                received=self.engine.text,
                fix="Use --precision fp32 or another --engine.",
            )
        return margins

    def close(self) -> None:
        """Free the engine, once no thread is using it; closing again does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._session.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
