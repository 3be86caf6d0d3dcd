"""The pipelines that `outside` times, each meant to run in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.big_volume import WINDOW, logit_terms
from gcis_runtime.sliding.labeller import Restore
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_runtime.system.memory import peak_memory_bytes
from gcis_runtime.system.stage_clock import StageClock


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a pipeline is to do.

    Attributes:
        image: CT file.
        out: Label map to write.
        spacing: The network's voxel size in mm.
        roi: Edge of the cubic windows.
        overlap: Their overlap.
        structures: Channels of the trivial predictor.
        restore: How labels come back to the file's grid.
        threads: CPU threads.
    """

    image: str
    out: str
    spacing: float
    roi: int
    overlap: float
    structures: int
    restore: Restore
    threads: int

    @property
    def preprocess(self) -> PreprocessSpec:
        """As training would store it."""
        spacing = (self.spacing,) * 3
        return PreprocessSpec(orientation="RAS", spacing=spacing, intensity_window=WINDOW)

    @property
    def window(self) -> WindowSpec:
        """Cubic, Gaussian."""
        return WindowSpec(patch_size=(self.roi,) * 3, overlap=self.overlap)


def run_pipeline(name: str, setting: Setting) -> dict[str, Any]:
    """Run `"gcis"` or `"monai"` in this process.

    Returns:
        Seconds of each stage (imports excluded), wall and CPU time outside the network, peak memory.
    """
    processor = StageClock("network", timer=time.process_time)
    run = _gcis(setting, processor) if name == "gcis" else _monai(setting, processor)
    started, cpu = time.perf_counter(), time.process_time()
    seconds = run()
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "pipeline": name,
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "outside": round(wall - seconds["network"], 3),
        "cpu": round(cpu - processor.seconds["network"], 3),
        "peak_memory_mb": round((peak_memory_bytes() or 0) / 1e6),
    }


def _gcis(setting: Setting, processor: StageClock) -> Callable[[], dict[str, float]]:
    """The runtime's own stages around a numpy predictor."""
    from gcis_runtime.grids.preprocess import preprocess  # noqa: PLC0415
    from gcis_runtime.images.nifti import read_volume, write_labels  # noqa: PLC0415
    from gcis_runtime.sliding.label_sink import LabelSink  # noqa: PLC0415
    from gcis_runtime.sliding.labeller import CpuLabeller, LabelTask  # noqa: PLC0415 (not in MONAI's process)
    from gcis_runtime.sliding.plan import plan_windows, window_weights  # noqa: PLC0415

    level, band = logit_terms(setting.structures)
    out = np.empty(
        (1, len(level), *setting.window.patch_size), dtype=np.float32
    )  # as an engine's output buffer

    def predict(window: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with processor.stage("network"):
            for channel, value in zip(out[0], level, strict=True):
                np.subtract(window[0, 0], value, out=channel)
                np.abs(channel, out=channel)
                np.subtract(np.float32(band), channel, out=channel)
        return out

    def run() -> dict[str, float]:
        clock = StageClock("read", "preprocess", "network", "blend", "restore", "write")
        with clock.stage("read"):
            volume = read_volume(setting.image)
        values = tuple(range(1, setting.structures + 1))
        image = preprocess(volume, setting.preprocess)
        task = LabelTask(
            image=image,
            plan=plan_windows(image.transform.shape, setting.window),
            weights=window_weights(setting.window),
            padding_value=0.0,
            channels=tuple(range(setting.structures)),
            values=values,
            restore=setting.restore,
        )
        sink = LabelSink(transform=image.transform, shape=volume.shape, values=values, masks=False)
        CpuLabeller(predict, threads=setting.threads).label(task, sink, clock)
        with clock.stage("write"):
            write_labels(setting.out, sink.labels, like=volume)
        return clock.seconds

    return run


def _monai(setting: Setting, processor: StageClock) -> Callable[[], dict[str, float]]:
    """MONAI's transforms, sliding window and inverse around the same predictor in PyTorch."""
    import torch  # noqa: PLC0415 (not in the runtime's process)
    from monai.data import MetaTensor  # noqa: PLC0415
    from monai.inferers import sliding_window_inference  # noqa: PLC0415
    from monai.transforms import EnsureChannelFirst, LoadImage, SaveImage, ScaleIntensityRange  # noqa: PLC0415

    from gcis_train.evaluation.reference import geometry_of, undo_geometry  # noqa: PLC0415

    torch.set_num_threads(setting.threads)
    level, band = logit_terms(setting.structures)
    levels = torch.from_numpy(level)[None, :, None, None, None]
    clock = StageClock("read", "preprocess", "network", "blend", "restore", "write")

    def predict(window: torch.Tensor) -> torch.Tensor:
        with clock.stage("network"), processor.stage("network"):
            return band - (window - levels).abs_()

    def run() -> dict[str, float]:
        with torch.no_grad():
            with clock.stage("read"):
                loaded = EnsureChannelFirst(channel_dim="no_channel")(
                    LoadImage(image_only=True)(setting.image)
                )
            with clock.stage("preprocess"):
                geometry = geometry_of(setting.preprocess)
                moved = geometry(loaded)
                low, high = WINDOW
                scaled = ScaleIntensityRange(a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)(moved)
            with clock.stage("blend"):
                logits = sliding_window_inference(
                    scaled.as_tensor()[None],
                    roi_size=setting.window.patch_size,
                    sw_batch_size=1,
                    predictor=predict,
                    overlap=setting.overlap,
                    mode="gaussian",
                    sigma_scale=setting.window.sigma_scale,
                )[0]
            with clock.stage("restore"):
                if setting.restore == "smooth":
                    logits = undo_geometry(logits, moved, geometry, mode="bilinear")
                best, channel = logits.max(0)
                labels = torch.where(best > 0, channel + 1, 0).to(torch.float32)[None]
                if setting.restore == "nearest":
                    labels = undo_geometry(labels, moved, geometry, mode="nearest")
            with clock.stage("write"):
                target = Path(setting.out)
                saver = SaveImage(
                    output_dir=target.parent,
                    output_postfix="",
                    output_ext=".nii.gz",
                    output_dtype=np.uint8,
                    resample=False,
                    separate_folder=False,
                    print_log=False,
                )
                saver(
                    MetaTensor(labels, affine=loaded.affine, meta=loaded.meta),
                    filename=str(target).removesuffix(".nii.gz"),
                )
        return clock.seconds

    return run
