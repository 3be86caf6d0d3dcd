"""Describe TensorRT-RTX, whose engines are built without a GPU, by default for Ampere and later."""

from __future__ import annotations

from gcis_export.options import BuildOptions, Precision
from gcis_runtime.engines.gpu.probe import Gpu
from gcis_runtime.engines.tensorrt.build import BuildSettings
from gcis_runtime.engines.tensorrt.family import TRT_RTX, load_builder
from gcis_runtime.errors import EngineError

FAMILY = TRT_RTX
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")


def check(options: BuildOptions) -> Gpu | None:
    """Raise if TensorRT-RTX cannot build for the compute capabilities; return None, as no GPU is needed.

    Raises:
        EngineError: TensorRT-RTX is not installed, or does not support a compute capability.
    """
    load_builder(FAMILY)
    for capability in options.capabilities:
        if not FAMILY.serves(capability):
            raise EngineError(
                f"{FAMILY.product} does not build for this compute capability",
                received=".".join(map(str, capability)),
                expected=", ".join(f"{a}.{b}" for a, b in FAMILY.capabilities or ()),
                fix="Choose one of them with --compute-capability, or omit the option.",
            )
    return None


def settings(options: BuildOptions, *, timing_cache: bytes) -> BuildSettings:
    """Return the builder settings; TensorRT-RTX does not use `timing_cache`."""
    return BuildSettings(
        optimization_level=options.optimization_level, tf32=options.tf32, capabilities=options.capabilities
    )
