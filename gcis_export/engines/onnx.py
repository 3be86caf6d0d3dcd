"""ONNX Runtime: reads the bundle's graph as it is; always there."""

from __future__ import annotations

from gcis_runtime.manifest import Precision

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""Those of the graph; fp16 is computed on CUDA alone."""


def check() -> None:
    """Nothing to check: the runtime depends on it."""
