"""Describe OpenVINO, which loads an ONNX graph directly and caches the compiled model per user."""

from __future__ import annotations

import importlib.util

from gcis_export.options import BuildOptions, Precision
from gcis_runtime.errors import EngineError

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
"""bf16 is computed from the fp32 graph on processors that support it."""


def check(_options: BuildOptions) -> None:
    """Raise if OpenVINO is not installed.

    Raises:
        EngineError: OpenVINO is missing; the message has the command that installs it.
    """
    if importlib.util.find_spec("openvino") is None:
        raise EngineError(
            "OpenVINO is not installed", fix="Install it: pip install 'gcis[openvino]'; or use --engine onnx."
        )
