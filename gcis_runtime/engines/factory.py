"""Select and open the engine that runs a bundle."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.choices import EngineName
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.engines.session import Session
from gcis_runtime.engines.usable import advice, reason_of
from gcis_runtime.errors import EngineError, GcisError, UnusableEngineError

# Engines are imported when one is opened: each import takes from 0.1 to several seconds.


def open_session(bundle: Bundle, options: EngineOptions) -> Session:
    """Load a bundle's graph into an engine.

    Args:
        bundle: A verified bundle.
        options: The engine, or `"auto"`; the session's `name` is the engine that was selected.

    Raises:
        EngineError: The engine is not installed or cannot run on this machine.
        UnusableEngineError: The engine is installed, but damaged or not fit for this machine.
        BundleError: The graph is not the one that the manifest describes.
        DeviceMemoryError: The device has too little memory.
    """
    engine = _automatic(bundle, options) if options.engine == "auto" else options.engine
    if options.tf32 and (engine != "onnx" or options.device == "cpu"):
        raise EngineError(
            "TF32 is for ONNX Runtime on a GPU",
            received=f"{engine} on {options.device}",
            expected="onnx on cuda",
            fix="Add --engine onnx --device cuda, or leave out --tf32.",
        )
    with _usable(engine):
        if options.device == "cpu":
            return _open_on_cpu(bundle, engine, options)
        return _open_on_gpu(bundle, engine, options)


@contextlib.contextmanager
def _usable(engine: EngineName) -> Iterator[None]:
    """Translate the errors of a damaged package: its import and its start may raise anything."""
    try:
        yield
    except (GcisError, MemoryError):
        raise
    except Exception as error:
        raise UnusableEngineError(
            f"{engine} is installed but cannot be used", received=reason_of(error), fix=advice(engine)
        ) from error


def _automatic(bundle: Bundle, options: EngineOptions) -> EngineName:
    """Return the engine that `"auto"` selects."""
    name = automatic_engines(bundle, options.device)[0]
    if options.device == "cpu" and options.precision == "bf16" and name == "onnx":
        raise EngineError("bf16 on the CPU needs OpenVINO", fix="Install it: pip install 'gcis[openvino]'.")
    return name


def automatic_engines(bundle: Bundle, device: str) -> tuple[EngineName, ...]:
    """Return the engines that `"auto"` may select on a device, best first; the last is ONNX Runtime."""
    if device == "cpu":
        return ("openvino", "onnx") if _installed("openvino") else ("onnx",)
    tensorrt: tuple[EngineName, ...] = ("trt", "trt-rtx")
    return (*(name for name in tensorrt if _has_engine(bundle, name)), "onnx")


def _has_engine(bundle: Bundle, name: EngineName) -> bool:
    """Return whether the bundle has an engine for a TensorRT that is installed."""
    if not any(engine.backend == name for engine in bundle.manifest.engines):
        return False
    from gcis_runtime.engines.tensorrt.family import FAMILIES  # noqa: PLC0415

    return any(_installed(module) for module in FAMILIES[name].runners)


def _open_on_cpu(bundle: Bundle, engine: EngineName, options: EngineOptions) -> Session:
    precision, threads, batch = options.precision, options.threads, options.batch or 1
    if engine == "onnx":
        from gcis_runtime.engines.onnx.cpu import OnnxSession  # noqa: PLC0415

        return OnnxSession(bundle, precision=precision, threads=threads, batch=batch)
    if engine == "openvino":
        if not _installed("openvino"):
            raise EngineError(
                "OpenVINO is not installed",
                fix="Install it: pip install 'gcis[openvino]'; or use --engine onnx.",
            )
        from gcis_runtime.engines.openvino.session import OpenvinoSession  # noqa: PLC0415

        return OpenvinoSession(bundle, precision=precision, threads=threads, batch=batch)
    raise EngineError(
        f"{engine} engines run on NVIDIA GPUs",
        received="--device cpu",
        expected="cuda",
        fix="Use --device cuda.",
    )


def _open_on_gpu(bundle: Bundle, engine: EngineName, options: EngineOptions) -> Session:
    device, precision, batch = options.device, options.precision, options.batch
    if engine == "onnx":
        from gcis_runtime.engines.onnx.cuda_open import open_on_cuda  # noqa: PLC0415

        return open_on_cuda(bundle, options)
    if engine == "openvino":
        raise EngineError(
            "OpenVINO runs on the CPU here", received=device, expected="cpu", fix="Use --device cpu."
        )
    from gcis_runtime.engines.tensorrt.family import FAMILIES  # noqa: PLC0415
    from gcis_runtime.engines.tensorrt.session import TensorrtSession  # noqa: PLC0415

    return TensorrtSession(bundle, family=FAMILIES[engine], device=device, precision=precision, batch=batch)


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError, AttributeError):  # a package without its parts
        return False
