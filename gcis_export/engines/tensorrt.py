"""Describe TensorRT 10 and 11, whose engines are built on the GPU that will run them."""

from __future__ import annotations

from gcis_export.options import BuildOptions, Precision
from gcis_runtime.engines.gpu.probe import Gpu, require_gpu
from gcis_runtime.engines.tensorrt.build import BuildSettings
from gcis_runtime.engines.tensorrt.family import TRT, load_builder
from gcis_runtime.errors import EngineError

FAMILY = TRT
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")


def check(_options: BuildOptions) -> Gpu | None:
    """Return the GPU to build on; the CUDA driver is queried before TensorRT is loaded.

    Raises:
        EngineError: No GPU is available, or TensorRT is not installed.
    """
    try:
        gpu = require_gpu("cuda")
    except EngineError as error:
        raise EngineError(
            f"{FAMILY.product} engines are built on the GPU that will run them",
            received=error.received or error.message,
            fix="Run the export on that machine, or use --engine trt-rtx, which builds without a GPU.",
        ) from error
    load_builder(FAMILY)
    return gpu


def settings(options: BuildOptions, *, timing_cache: bytes) -> BuildSettings:
    """Return the builder settings; `timing_cache` holds kernel timings of earlier builds on the same GPU."""
    return BuildSettings(
        optimization_level=options.optimization_level,
        tf32=options.tf32,
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        timing_cache=timing_cache,
    )
