"""List the engines that an export can build or check, and validate a selection of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gcis_export.engines import onnx, openvino, tensorrt, tensorrt_rtx
from gcis_export.options import BuildOptions, EngineName, Precision
from gcis_runtime.errors import EngineError


@dataclass(frozen=True, kw_only=True)
class ExportEngine:
    """Properties of one engine.

    Attributes:
        product: Name of the engine in reports and messages.
        precisions: Precisions that the export offers with the engine.
        check: Raises `EngineError` if the engine cannot be used with the options.
    """

    product: str
    precisions: tuple[Precision, ...]
    check: Callable[[BuildOptions], object]


ENGINES: dict[EngineName, ExportEngine] = {
    "onnx": ExportEngine(product="ONNX Runtime", precisions=onnx.PRECISIONS, check=onnx.check),
    "openvino": ExportEngine(product="OpenVINO", precisions=openvino.PRECISIONS, check=openvino.check),
    **{
        module.FAMILY.backend: ExportEngine(
            product=module.FAMILY.product, precisions=module.PRECISIONS, check=module.check
        )
        for module in (tensorrt, tensorrt_rtx)
    },
}
"""Engines by name, in the order in which they are built and checked."""


def check_engines(
    names: Sequence[str], *, precision: Precision, options: BuildOptions | None = None
) -> tuple[EngineName, ...]:
    """Return the engines to build or check; `onnx` is always the first of them.

    Args:
        names: Selected engines.
        precision: Precision that at least one of the engines must support.
        options: Options for building TensorRT engines.

    Raises:
        EngineError: An engine is unknown, not installed or lacks its GPU, no engine supports the precision,
            or an option belongs to none of the engines.
    """
    options = options or BuildOptions()
    for name in names:
        if name not in ENGINES:
            raise EngineError(
                "unknown engine",
                received=repr(name),
                expected=", ".join(ENGINES),
                fix="Choose one of these with --engine.",
            )
    chosen = tuple(name for name in ENGINES if name == "onnx" or name in names)
    options.check(chosen)
    if not any(precision in ENGINES[name].precisions for name in chosen):
        able = [name for name, engine in ENGINES.items() if precision in engine.precisions]
        raise EngineError(
            f"none of the selected engines supports {precision}",
            received=f"--engine {', '.join(chosen)}",
            expected=" or ".join(able),
            fix=f"Add --engine {able[0]}.",
        )
    for name in chosen:
        ENGINES[name].check(options)
    return chosen
