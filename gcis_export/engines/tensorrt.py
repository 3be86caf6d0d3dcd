"""TensorRT 10 and 11: engines are built on the GPU that will run them."""

from __future__ import annotations

from gcis_export.engines.options import EngineOptions
from gcis_runtime.bundles.manifest import Precision
from gcis_runtime.engines.gpu.probe import Gpu, require_gpu
from gcis_runtime.engines.tensorrt.build import BuildSettings
from gcis_runtime.engines.tensorrt.family import TRT, load_builder
from gcis_runtime.errors import EngineError

FAMILY = TRT
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")


def check(options: EngineOptions) -> Gpu | None:
    """Find the GPU to build on; the driver is asked before TensorRT is touched.

    Raises:
        EngineError: No GPU, or not installed.
    """
    try:
        gpu = require_gpu("cuda")
    except EngineError as error:
        raise EngineError(
            f"{FAMILY.product} engines are built on the GPU that will run them",
            received=error.received or error.message,
            fix="Export there, or use --engine trt-rtx, which builds anywhere.",
        ) from error
    load_builder(FAMILY)
    return gpu


def settings(options: EngineOptions, *, timing_cache: bytes) -> BuildSettings:
    """Return the builder's settings."""
    return BuildSettings(
        optimization_level=options.optimization_level,
        tf32=options.tf32,
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        timing_cache=timing_cache,
    )
