"""Explain why an engine's package is installed but not usable."""

from __future__ import annotations

import importlib
import importlib.metadata
import os

from gcis_runtime.choices import EngineName
from gcis_runtime.errors import EngineError, GcisError, UnusableEngineError
from gcis_runtime.text import printable

_INSTALL = {
    "onnx": ("onnxruntime", "gcis"),
    "openvino": ("openvino", "gcis[openvino]"),
    "trt": ("tensorrt", "gcis[trt]"),
    "trt-rtx": ("tensorrt-rtx", "gcis[trt-rtx]"),
}
"""Distribution of each engine, and what installs it."""
NO_BF16_ON_CUDA = "in bf16 graphs it would run instance norms and transposed convolutions on the CPU"
"""Why ONNX Runtime does not offer bf16 on CUDA: bf16 convolutions need opset 22, for which the CUDA provider
lists neither of these operators (docs/decisions/0023-precision.md)."""
_ONE_FOLDER = ("onnxruntime", "onnxruntime-gpu")
"""Distributions that install different files under the same names."""
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "OV_CPU_MAX_ISA")
"""Variables that hide features of the processor; OpenVINO then chooses code that does not run."""


def reason_of(error: BaseException) -> str:
    """Return an error's cause in one line of at most 200 characters."""
    received = error.received if isinstance(error, GcisError) else None
    text = received or str(error) or type(error).__name__
    return printable(" ".join(text.split()))[:200]


def as_unusable(error: EngineError) -> UnusableEngineError:
    """Return the error of an engine that failed on its first window, so that another engine may be tried."""
    return UnusableEngineError(error.message, received=error.received, expected=error.expected, fix=error.fix)


def import_problem(module: str) -> str | None:
    """Return why a module cannot be imported, in one line; None if it can be imported."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a damaged package raises anything
        return f"{type(error).__name__}: {reason_of(error)}"
    return None


def overlap() -> str | None:
    """Return a warning if two distributions of ONNX Runtime overwrite each other's files."""
    if not all(version_of(name) for name in _ONE_FOLDER):
        return None
    both = " and ".join(_ONE_FOLDER)
    return (
        f"{both} are both installed and overwrite each other's files: "
        f"pip uninstall {' '.join(_ONE_FOLDER)}, then install one of them"
    )


def limits() -> str | None:
    """Return the variables that hide features of the processor, as `NAME=VALUE`; None if there are none."""
    found = [f"{name}={os.environ[name]}" for name in _LIMITS if os.environ.get(name)]
    return ", ".join(found) or None


def advice(engine: EngineName) -> str:
    """Return what to do about an engine that is installed but does not work."""
    if engine == "onnx" and (both := overlap()) is not None:
        return f"{both}."
    distribution, extra = _INSTALL[engine]
    again = f"Install it again: pip install --force-reinstall {distribution} (part of {extra!r})"
    if engine == "openvino" and (found := limits()) is not None:
        again = f"Unset {found}"
    return f"{again}; or use another --engine. `gcis-bundle doctor` lists those that work."


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution; None if it is not installed or has no version."""
    try:
        return importlib.metadata.version(distribution)
    except (importlib.metadata.PackageNotFoundError, KeyError, OSError, ValueError):
        return None
