"""TensorRT-RTX: engines are built on any machine, without a GPU; Ampere and later unless narrowed."""

from __future__ import annotations

from gcis_export.engines.options import EngineOptions
from gcis_runtime.bundles.manifest import Precision
from gcis_runtime.engines.gpu.probe import Gpu
from gcis_runtime.engines.tensorrt.build import BuildSettings
from gcis_runtime.engines.tensorrt.family import TRT_RTX, load_builder
from gcis_runtime.errors import EngineError

FAMILY = TRT_RTX
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")


def check(options: EngineOptions) -> Gpu | None:
    """Refuse what cannot be built; no GPU is needed.

    Raises:
        EngineError: Not installed, or no such compute capability.
    """
    load_builder(FAMILY)
    for capability in options.capabilities:
        if not FAMILY.serves(capability):
            raise EngineError(
                f"{FAMILY.product} does not build for this compute capability",
                received=".".join(map(str, capability)),
                expected=", ".join(f"{a}.{b}" for a, b in FAMILY.capabilities or ()),
                fix="Choose one of them with --compute-capability, or leave it out.",
            )
    return None


def settings(options: EngineOptions, *, timing_cache: bytes) -> BuildSettings:
    """Return the builder's settings; measurements are of no use to it."""
    return BuildSettings(
        optimization_level=options.optimization_level, tf32=options.tf32, capabilities=options.capabilities
    )
