"""Which engine runs a bundle."""

from __future__ import annotations

import importlib.util
import re

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.engines.session import Session
from gcis_runtime.errors import EngineError
from gcis_runtime.system.cpus import check_threads

ENGINES = ("auto", "onnx", "openvino", "trt", "trt-rtx")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")


def open_session(
    bundle: Bundle,
    *,
    engine: str = "auto",
    device: str = "cpu",
    precision: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    tf32: bool = False,
) -> Session:
    """Load a bundle's graph into an engine.

    Args:
        bundle: A verified bundle.
        engine: One of `ENGINES`; `"auto"` takes OpenVINO on the CPU where it is installed (about six times
            faster on this network), else ONNX Runtime; on a GPU a TensorRT whose engine the bundle has and
            which is installed, else ONNX Runtime. The session's `name` says which it was.
        device: `"cpu"`, `"cuda"` or `"cuda:1"`.
        precision: One of `PRECISIONS`; `"auto"` takes what the bundle's parity report allows.
        threads: CPU threads; None counts what the process may use.
        batch: Most windows a run; None takes one on the CPU, where more gain nothing, and the most that the
            bundle has on a GPU.
        tf32: ONNX Runtime on a GPU: let float32 products round their factors to 11 bits.

    Raises:
        EngineError: Unknown, not installed, or not able to run here.
        BundleError: The graph is not the one that the manifest describes.
        DeviceMemoryError: The device has not enough memory.
    """
    check_threads(threads)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", str(device)):
        raise EngineError("unknown device", received=repr(device), expected="cpu, cuda or cuda:NUMBER")
    if engine not in ENGINES:
        raise EngineError("unknown engine", received=repr(engine), expected=", ".join(ENGINES))
    if engine == "auto":
        engine = _automatic(bundle, device, precision)
    if tf32 and (engine != "onnx" or device == "cpu"):
        raise EngineError(
            "TF32 is for ONNX Runtime on a GPU",
            received=f"{engine} on {device}",
            fix="Add --engine onnx --device cuda, or leave out --tf32.",
        )
    if device == "cpu":
        return _open_on_cpu(bundle, engine, precision=precision, threads=threads, batch=batch or 1)
    return _open_on_gpu(bundle, engine, device=device, precision=precision, batch=batch, tf32=tf32)


def _automatic(bundle: Bundle, device: str, precision: str) -> str:
    """Return the engine that `auto` means."""
    name = automatic_engines(bundle, device)[0]
    if device == "cpu" and precision == "bf16" and name == "onnx":
        raise EngineError(
            f"{precision} on the CPU needs OpenVINO", fix="Install it: pip install 'gcis[openvino]'."
        )
    return name


def automatic_engines(bundle: Bundle, device: str) -> tuple[str, ...]:
    """Return the engines that `auto` may take on a device, best first; ONNX Runtime is always the last."""
    if device == "cpu":
        return ("openvino", "onnx") if _installed("openvino") else ("onnx",)
    return (*(name for name in ("trt", "trt-rtx") if _has_engine(bundle, name)), "onnx")


def _has_engine(bundle: Bundle, name: str) -> bool:
    """Tell whether the bundle has an engine for a TensorRT that is installed."""
    if not any(engine.backend == name for engine in bundle.manifest.engines):
        return False
    from gcis_runtime.engines.tensorrt.family import FAMILIES  # noqa: PLC0415 (engines are imported when opened)

    return any(_installed(module) for module in FAMILIES[name].runners)


def _open_on_cpu(bundle: Bundle, engine: str, *, precision: str, threads: int | None, batch: int) -> Session:
    if engine == "onnx":
        from gcis_runtime.engines.onnx.cpu import OnnxSession  # noqa: PLC0415 (as above)

        return OnnxSession(bundle, precision=precision, threads=threads, batch=batch)
    if engine == "openvino":
        if not _installed("openvino"):
            raise EngineError(
                "OpenVINO is not installed",
                fix="Install it: pip install 'gcis[openvino]'; or use --engine onnx.",
            )
        from gcis_runtime.engines.openvino.session import OpenvinoSession  # noqa: PLC0415 (as above)

        return OpenvinoSession(bundle, precision=precision, threads=threads, batch=batch)
    raise EngineError(
        f"{engine} engines run on NVIDIA GPUs",
        received="--device cpu",
        expected="cuda",
        fix="Use --device cuda.",
    )


def _open_on_gpu(
    bundle: Bundle, engine: str, *, device: str, precision: str, batch: int | None, tf32: bool
) -> Session:
    if engine == "onnx":
        from gcis_runtime.engines.onnx.cuda import OnnxCudaSession  # noqa: PLC0415 (as above)

        return OnnxCudaSession(bundle, device=device, precision=precision, batch=batch, tf32=tf32)
    if engine == "openvino":
        raise EngineError(
            "OpenVINO runs on the CPU here", received=device, expected="cpu", fix="Use --device cpu."
        )
    from gcis_runtime.engines.tensorrt.family import FAMILIES  # noqa: PLC0415
    from gcis_runtime.engines.tensorrt.session import TensorrtSession  # noqa: PLC0415 (as above)

    return TensorrtSession(bundle, family=FAMILIES[engine], device=device, precision=precision, batch=batch)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
