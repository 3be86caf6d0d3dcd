"""Which engines an export makes, refused early when one cannot be had."""

from __future__ import annotations

from collections.abc import Sequence

from gcis_export.engines import onnx, openvino, tensorrt, tensorrt_rtx
from gcis_export.engines.options import EngineOptions
from gcis_runtime.bundles.manifest import Precision
from gcis_runtime.errors import EngineError

OFFERS: dict[str, tuple[Precision, ...]] = {
    "onnx": onnx.PRECISIONS,
    "openvino": openvino.PRECISIONS,
    "trt": tensorrt.PRECISIONS,
    "trt-rtx": tensorrt_rtx.PRECISIONS,
}
"""Precisions of each engine."""

KNOWN = tuple(OFFERS)


def check_engines(
    names: Sequence[str], *, precision: str, options: EngineOptions | None = None
) -> tuple[str, ...]:
    """Return the engines to make, `onnx` first: it is always made.

    Args:
        names: Engines that were asked for.
        precision: What one of them has to compute in.
        options: Of compiled engines.

    Raises:
        EngineError: Unknown, not installed, without the GPU that it needs, or of other precisions.
    """
    options = options or EngineOptions()
    for name in names:
        if name not in KNOWN:
            raise EngineError("unknown engine", received=repr(name), expected=", ".join(KNOWN))
    chosen = tuple(name for name in KNOWN if name == "onnx" or name in names)
    options.check(chosen)
    if not any(precision in OFFERS[name] for name in chosen):
        able = [name for name in KNOWN if precision in OFFERS[name]]
        raise EngineError(
            f"no engine that was asked for computes in {precision}",
            received=f"--engine {', '.join(chosen)}",
            expected=" or ".join(able),
            fix=f"Add --engine {able[0]}.",
        )
    if "openvino" in chosen:
        openvino.check()
    for backend in (tensorrt, tensorrt_rtx):
        if backend.FAMILY.backend in chosen:
            backend.check(options)
    return chosen
