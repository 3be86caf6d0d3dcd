"""What can run on this machine, and why not the rest."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcis_runtime import gzipped
from gcis_runtime.cpus import usable_cpus

PACKAGES = (
    "gcis", "numpy", "nibabel", "isal", "msgspec", "click", "pillow", "onnxruntime", "onnxruntime-gpu",
    "openvino", "tensorrt", "tensorrt-rtx", "cuda-python",
)  # fmt: skip
_CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "avx_vnni",
    "asimd",
    "bf16",
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Whether an engine can run here.

    Attributes:
        engine: `"onnx"`, `"openvino"`, …
        device: `"cpu"` or `"cuda"`.
        works: It can.
        why: What speaks for or against it.
    """

    engine: str
    device: str
    works: bool
    why: str


def examine() -> dict[str, Any]:
    """Look at Python, packages, engines, processor and CUDA driver.

    Returns:
        Values ready for JSON; `"engines"` is a list of `Finding`.
    """
    providers = onnx_providers()
    openvino = openvino_devices()
    driver = cuda_driver()
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "gzip": gzipped.engine(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "cpus": usable_cpus(),
        "cpu_flags": cpu_flags(),
        "cuda_driver": driver,
        "onnxruntime_providers": providers,
        "openvino": openvino,
        "engines": _findings(providers, openvino, driver),
    }


def onnx_providers() -> list[str]:
    """Return ONNX Runtime's providers; empty when it cannot be imported."""
    try:
        import onnxruntime  # noqa: PLC0415 (looked at only when asked)
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def openvino_devices() -> dict[str, list[str]]:
    """Return OpenVINO's devices and their capabilities; empty when it cannot be imported."""
    from gcis_runtime.sessions.quiet_openvino import import_openvino  # noqa: PLC0415 (as above)

    try:
        core = import_openvino().Core()
    except (ImportError, RuntimeError):
        return {}
    return {d: sorted(core.get_property(d, "OPTIMIZATION_CAPABILITIES")) for d in core.available_devices}


def cuda_driver() -> str | None:
    """Return the CUDA driver's version, or None where there is no working driver.

    Asks libcuda alone: creating a TensorRT runtime without a driver would crash the interpreter.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return None
    version = ctypes.c_int()
    if library.cuInit(0) != 0 or library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Return the processor features that matter for speed; empty where the system does not list them."""
    try:
        text = path.read_text()
    except OSError:
        return []
    found: set[str] = set()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            found.update(value.split())
            break
    return [flag for flag in _CPU_FLAGS if flag in found]


def _findings(providers: list[str], openvino: dict[str, list[str]], driver: str | None) -> list[Finding]:
    """Judge each engine."""
    no_driver = "no CUDA driver was found"
    cuda = "CUDAExecutionProvider" in providers
    bf16 = "with" if "BF16" in openvino.get("CPU", []) else "without"
    return [
        Finding(
            engine="onnx",
            device="cpu",
            works=bool(providers),
            why="ONNX Runtime is installed" if providers else "ONNX Runtime cannot be imported",
        ),
        Finding(
            engine="openvino",
            device="cpu",
            works="CPU" in openvino,
            why=f"OpenVINO is installed, CPU {bf16} bf16"
            if "CPU" in openvino
            else "pip install 'gcis[openvino]'",
        ),
        Finding(
            engine="onnx",
            device="cuda",
            works=cuda and driver is not None,
            why=no_driver
            if driver is None
            else f"driver {driver}"
            if cuda
            else "onnxruntime-gpu is not installed",
        ),
        *(
            Finding(engine=name, device="cuda", works=False, why="not in this version of the runtime")
            for name in ("trt", "trt-rtx")
        ),
    ]


def _version(package: str) -> str | None:
    """Return an installed package's version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
