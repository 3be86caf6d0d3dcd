"""Time a CT from file to file with gcis-run, and on the network's grid in PyTorch (section `whole`)."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.gpu_parts.context import Context
from benchmarks.gpu_parts.networks import Published, routed, static
from benchmarks.gpu_parts.processes import (
    ct_file,
    exit_codes,
    require_packages,
    trial_of_settings,
    whole_process,
    wide_bundle,
)
from benchmarks.gpu_parts.rig import Rig
from benchmarks.gpu_parts.state import NotHereError, Result, Row
from benchmarks.tiling import tiled
from gcis_runtime.sliding.plan import axis_starts
from gcis_runtime.spec import PreprocessSpec

_LOW, _HIGH = PreprocessSpec().intensity_window
_OVERLAP = 0.5
_ENGINES = ("onnx", "trt", "trt-rtx")


def rows(context: Context) -> Iterator[Row]:
    """Return the rows: both pipelines per voxel size of the network, repeated processes, and every bundle."""
    half, cut = "fp16" if context.rig.cuda else "bf16", functools.partial
    for number, spacing in enumerate(context.sizes.grids):
        at, worth = f"whole/{spacing:g} mm", 1 if number == 0 else 2
        yield Row(name=f"{at}/gcis-run, process", measure=cut(whole_process, context, spacing), worth=worth)
        published = cut(_on_grid, context, spacing, "published", "default", 1)
        yield Row(name=f"{at}/published, all pathways, PyTorch's defaults", measure=published, worth=worth)
        yield Row(
            name=f"{at}/gcis-run, stages",
            measure=cut(_runtime, context, (context.wide, spacing), "onnx"),
            worth=2,
        )
        for way, precision, batch in (("static", half, 4), ("static", "fp32", 4), ("published", "fp32", 1)):
            text = "one pathway" if way == "static" else "published, all pathways"
            name = f"{at}/{text}, PyTorch {'autocast ' if precision == half else ''}{precision}"
            yield Row(name=name, measure=cut(_on_grid, context, spacing, way, precision, batch))
    for precision in ("fp32", "fp16") if context.rig.cuda else ("fp32",):
        name = f"whole/{context.sizes.processes} processes, {precision}"
        yield Row(name=name, measure=cut(exit_codes, context, precision), worth=2)
    if context.rig.cuda:  # after the rows above, which are about the plain settings
        spacing = next(iter(context.sizes.grids))
        name = f"whole/{spacing:g} mm/gcis-run after a trial of settings, process"
        yield Row(name=name, measure=cut(trial_of_settings, context, spacing), worth=2)
    for bundle in ("demo", *context.bundles):
        for engine in _ENGINES if context.rig.cuda else ("onnx",):
            name = f"whole/gcis-run, {Path(bundle).name}, {engine}"
            yield Row(name=name, measure=cut(_runtime, context, (bundle, None), engine))


class _Stages:
    """Seconds of named stages; each ends with a synchronisation of the device."""

    def __init__(self, rig: Rig) -> None:
        self.seconds: dict[str, float] = {}
        self._rig, self._last = rig, time.perf_counter()

    def done(self, name: str) -> None:
        self._rig.synchronize()
        now = time.perf_counter()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._last, 4)
        self._last = now


def _network(context: Context, way: str) -> nn.Module:
    net, embedding = routed(context.sizes.feature_size, pathways=context.sizes.pathways)
    made: nn.Module = Published(net, embedding) if way == "published" else static(net, embedding)
    return made.to(context.rig.device)


def _on_grid(context: Context, spacing: float, way: str, precision: str, batch: int) -> Result:
    """Measure MONAI's sliding window on the device, from HU to labels on the host, on the network's grid."""
    from monai.inferers.utils import sliding_window_inference  # noqa: PLC0415 (after the wheelhouse)

    rig, roi = context.rig, context.sizes.windows[0]
    batch = 1 if rig.tiny else batch
    grid = context.sizes.grids[spacing]
    hu = np.ascontiguousarray(tiled(grid, (spacing,) * 3))
    net = _network(context, way)
    try:
        with torch.no_grad(), rig.computing(precision):
            if not rig.tiny:
                net(rig.inputs((batch, 1, *roi))[0])  # libraries load and select kernels
            if rig.cuda:
                torch.cuda.reset_peak_memory_stats()
            stages, started = _Stages(rig), time.perf_counter()
            image = _scaled(hu, rig)
            stages.done("to the device")
            outputs: Tensor = sliding_window_inference(
                image[None, None], roi, batch, net, overlap=_OVERLAP, mode="gaussian", sigma_scale=0.125
            )
            labels = _labels(outputs[0])
            stages.done("network and blend")
            host = labels.to(torch.uint8).cpu().numpy()
            stages.done("labels to the host")
            seconds = time.perf_counter() - started
    finally:
        net.to("cpu")
        rig.clear()
    return {
        "seconds": round(seconds, 4),
        "stages": stages.seconds,
        "windows": math.prod(len(axis_starts(n, r, _OVERLAP)) for n, r in zip(grid, roi, strict=True)),
        "labelled_share": float(np.mean(host > 0)),
        **rig.memory(),
        "note": "on the network's grid in memory, without files and resampling; weights are random",
    }


def _scaled(hu: NDArray[np.int16], rig: Rig) -> Tensor:
    image = torch.from_numpy(hu).to(rig.device).float()
    return ((image - _LOW) / (_HIGH - _LOW)).clamp_(0, 1)


def _labels(outputs: Tensor) -> Tensor:
    """Return the foreground of one structure from one logit, or from two class scores."""
    return outputs[0] > 0 if len(outputs) == 1 else outputs[1] > outputs[0]


def _runtime(context: Context, wanted: tuple[str | Path | None, float | None], engine: str) -> Result:
    """Segment a file twice in this process; the second run is reported, the first as `first_seconds`."""
    require_packages(context)
    from gcis_runtime.errors import GcisError  # noqa: PLC0415
    from gcis_runtime.images.nifti import read_volume, write_labels  # noqa: PLC0415
    from gcis_runtime.pipeline.segmenter import Segmenter  # noqa: PLC0415

    if context.rig.cuda and engine == "onnx":
        import onnxruntime  # noqa: PLC0415 (only where it is)

        onnxruntime.preload_dlls()  # CUDA and cuDNN of PyTorch's packages
    bundle = wanted[0] if wanted[1] is None else wide_bundle(context, wanted[1])
    file, out = ct_file(context, context.sizes.volume), context.folder / "labels.nii.gz"
    started = time.perf_counter()
    try:
        segmenter = Segmenter.open(bundle, engine=engine, device=context.rig.device.type)
    except GcisError as error:
        raise NotHereError(str(error)) from error
    runs: list[dict[str, Any]] = []
    with segmenter:
        opened = time.perf_counter() - started
        for _ in range(1 if context.rig.tiny else 2):
            stages, began = _Stages(context.rig), time.perf_counter()
            volume = read_volume(file)
            stages.done("read")
            result = segmenter.segment(volume)
            stages.done("segment")
            write_labels(out, result.labels, like=volume)
            stages.done("write")
            inside = {f"segment: {k}": round(v, 4) for k, v in result.seconds.items()}
            runs.append({"seconds": round(time.perf_counter() - began, 4), "stages": stages.seconds | inside})
        memory, text = context.rig.memory(), segmenter.engine.text
    return {
        **runs[-1],
        "start_seconds": round(opened, 3),
        "first_seconds": runs[0]["seconds"],
        "windows": result.windows,
        "windows_computed": result.windows - result.windows_reused,
        "engine": text,
        **memory,
    }
