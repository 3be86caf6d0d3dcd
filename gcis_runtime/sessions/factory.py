"""Which engine runs a bundle."""

from __future__ import annotations

import importlib.util
import re

from gcis_runtime.bundle import Bundle
from gcis_runtime.errors import EngineError
from gcis_runtime.sessions.base import Session

ENGINES = ("auto", "onnx", "openvino", "trt", "trt-rtx")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")


def open_session(
    bundle: Bundle,
    *,
    engine: str = "auto",
    device: str = "cpu",
    precision: str = "auto",
    threads: int | None = None,
) -> Session:
    """Load a bundle's graph into an engine.

    Args:
        bundle: A verified bundle.
        engine: One of `ENGINES`; `"auto"` takes OpenVINO on the CPU where it is installed (about six times
            faster on this network), else ONNX Runtime. The session's `name` says which it was.
        device: `"cpu"`, `"cuda"` or `"cuda:1"`.
        precision: One of `PRECISIONS`; `"auto"` takes what the bundle's parity report allows.
        threads: CPU threads; None counts what the process may use.

    Raises:
        EngineError: Unknown, not installed, or not able to run here.
        BundleError: The graph is not the one that the manifest describes.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise EngineError("unknown device", received=repr(device), expected="cpu, cuda or cuda:NUMBER")
    if engine == "auto":
        engine = "openvino" if device == "cpu" and _installed("openvino") else "onnx"
        if engine == "onnx" and precision not in ("auto", "fp32") and device == "cpu":
            raise EngineError(
                f"{precision} on the CPU needs OpenVINO", fix="Install it: pip install 'gcis[openvino]'."
            )
    if engine == "onnx":
        return _open_onnx(bundle, device=device, precision=precision, threads=threads)
    if engine == "openvino":
        return _open_openvino(bundle, device=device, precision=precision, threads=threads)
    if engine in ("trt", "trt-rtx"):
        raise EngineError(
            f"this runtime cannot run {engine} engines yet",
            received=f"bundle {bundle.name!r}",
            expected="--engine onnx, openvino or auto",
            fix="Use --engine onnx --device cuda on an NVIDIA GPU.",
        )
    raise EngineError("unknown engine", received=repr(engine), expected=", ".join(ENGINES))


def _open_onnx(bundle: Bundle, *, device: str, precision: str, threads: int | None) -> Session:
    from gcis_runtime.sessions.onnx import OnnxSession  # noqa: PLC0415 (engines are imported when opened)

    session = OnnxSession(bundle, device="cuda:0" if device == "cuda" else device, threads=threads)
    if precision not in ("auto", session.precision):
        session.close()
        raise EngineError(
            "ONNX Runtime computes in the graph's own precision",
            received=precision,
            expected=f"auto or {session.precision}",
            fix="Export the bundle with that precision.",
        )
    return session


def _open_openvino(bundle: Bundle, *, device: str, precision: str, threads: int | None) -> Session:
    if not _installed("openvino"):
        raise EngineError(
            "OpenVINO is not installed", fix="Install it: pip install 'gcis[openvino]'; or use --engine onnx."
        )
    if device != "cpu":
        raise EngineError(
            "OpenVINO runs on the CPU here", received=device, expected="cpu", fix="Use --device cpu."
        )
    from gcis_runtime.sessions.openvino import OpenvinoSession  # noqa: PLC0415 (as above)

    return OpenvinoSession(bundle, precision=precision, threads=threads)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
