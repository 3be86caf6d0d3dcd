"""OpenVINO: reads the bundle's graph as it is, and keeps what it makes of it in the user's cache."""

from __future__ import annotations

import importlib.util

from gcis_runtime.bundles.manifest import Precision
from gcis_runtime.errors import EngineError

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
"""bf16 is made of the fp32 graph where the processor has it."""


def check() -> None:
    """Refuse where it is not installed.

    Raises:
        EngineError: Says how to install it.
    """
    if importlib.util.find_spec("openvino") is None:
        raise EngineError(
            "OpenVINO is not installed", fix="Install it: pip install 'gcis[openvino]'; or use --engine onnx."
        )
