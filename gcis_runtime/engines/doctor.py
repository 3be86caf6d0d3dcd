"""Examine which engines can run on this machine."""

from __future__ import annotations

import importlib.util
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcis_runtime.engines.gpu.probe import Driver, probe_driver
from gcis_runtime.engines.tensorrt.family import FAMILIES, Family, installed_version
from gcis_runtime.engines.usable import NO_BF16_ON_CUDA, import_problem, limits, overlap, version_of
from gcis_runtime.system import gzip_stream as gzipped
from gcis_runtime.system.cpus import usable_cpus
from gcis_runtime.system.private_cache import open_cache

PACKAGES = (
    "gcis", "numpy", "nibabel", "isal", "msgspec", "click", "pillow", "onnxruntime", "onnxruntime-gpu",
    "openvino", "tensorrt", "tensorrt-lean", "tensorrt-rtx", "cuda-python", "nvidia-cuda-nvrtc",
    "nvidia-cudnn-cu13", "nvidia-cudnn-cu12",
)  # fmt: skip
ONNX_ON_CUDA = f"fp32 and fp16; bf16 is not offered: {NO_BF16_ON_CUDA}"
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
    """Result of examining an engine on this machine.

    Attributes:
        engine: `"onnx"`, `"openvino"`, …
        device: `"cpu"` or `"cuda"`.
        works: Whether it can run.
        why: Reason.
        builds: Whether `gcis-export` can build it on this machine.
    """

    engine: str
    device: str
    works: bool
    why: str
    builds: bool


def examine() -> dict[str, Any]:
    """Examine Python, packages, engines, processor, CUDA driver and GPUs.

    Returns:
        Values ready for JSON; `"engines"` is a list of `Finding`, `"gpus"` of `Gpu`.
    """
    providers = onnx_providers()
    openvino = openvino_devices()
    driver = probe_driver()
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "gzip": gzipped.engine(),
        "packages": {name: version for name in PACKAGES if (version := version_of(name))},
        "cpus": usable_cpus(),
        "cpu_flags": cpu_flags(),
        "cuda_driver": driver.version,
        "cuda_problem": driver.problem,
        "gpus": list(driver.gpus),
        "cache": str(cache.folder) if (cache := open_cache()) else None,
        "onnxruntime_providers": providers,
        "openvino": openvino,
        "engines": _findings(providers, openvino, driver),
    }


def onnx_providers() -> list[str]:
    """Return ONNX Runtime's providers; empty when it cannot be imported."""
    try:
        from gcis_runtime.engines.onnx.quiet_import import import_onnxruntime  # noqa: PLC0415 (optional, slow)

        return list(import_onnxruntime().get_available_providers())
    except Exception:  # a damaged package raises anything; `import_problem` explains it
        return []


def openvino_devices() -> dict[str, list[str]]:
    """Return OpenVINO's devices and their capabilities; empty when it cannot be imported."""
    from gcis_runtime.engines.openvino.quiet_import import import_openvino  # noqa: PLC0415 (as above)

    try:
        core = import_openvino().Core()
        return {d: sorted(core.get_property(d, "OPTIMIZATION_CAPABILITIES")) for d in core.available_devices}
    except Exception:  # as above
        return {}


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Return the processor features that affect speed; empty if the system does not list them."""
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


def _findings(providers: list[str], openvino: dict[str, list[str]], driver: Driver) -> list[Finding]:
    """Return one finding per engine."""
    bf16 = "with" if "BF16" in openvino.get("CPU", []) else "without"
    there = "CPU" in openvino
    return [
        Finding(
            engine="onnx",
            device="cpu",
            works=bool(providers),
            why=_why("onnxruntime", "ONNX Runtime", works=bool(providers)),
            builds=bool(providers),
        ),
        Finding(
            engine="openvino",
            device="cpu",
            works=there,
            why=_why("openvino", "OpenVINO", works=there) + (f", CPU {bf16} bf16" if there else ""),
            builds=there,
        ),
        _onnx_on_gpu(providers, driver),
        *(_tensorrt(family, driver) for family in FAMILIES.values()),
    ]


def _why(module: str, product: str, *, works: bool) -> str:
    """Return why an engine on the CPU works or not, with what may stop it later."""
    if works:
        notes = [f"{product} is installed"]
    elif module == "openvino" and not _found(module):
        return "pip install 'gcis[openvino]'"
    else:
        problem = import_problem(module) or "parts of the package are missing"
        notes = [f"{product} cannot be imported: {problem}", f"pip install --force-reinstall {module}"]
    if module == "onnxruntime" and (both := overlap()) is not None:
        notes.append(both)
    if module == "openvino" and (found := limits()) is not None:
        notes.append(f"may fail with {found}")
    return "; ".join(notes)


def _found(module: str) -> bool:
    """Return whether a module is installed, usable or not."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _onnx_on_gpu(providers: list[str], driver: Driver) -> Finding:
    missing = [
        *([] if "CUDAExecutionProvider" in providers else ["onnxruntime-gpu is not installed"]),
        *_gpu_packages(),
    ]
    why = driver.problem or "; ".join(missing) or f"driver {driver.version}, {_names(driver)}"
    if driver.problem is None and not missing:
        why += f"; {ONNX_ON_CUDA}"
    return Finding(
        engine="onnx",
        device="cuda",
        works=driver.problem is None and not missing,
        why=why,
        builds=bool(providers),
    )


def _tensorrt(family: Family, driver: Driver) -> Finding:
    """Return the finding for a TensorRT family. Creating its runtime without a driver would crash Python."""
    version = installed_version(family)
    can_build = _found(family.builder) and version is not None
    served = [gpu for gpu in driver.gpus if family.serves(gpu.capability)]
    if version is None:
        works, why = False, f"{family.product} is not installed: pip install 'gcis[{family.extra}]'"
    elif driver.problem is not None:
        works, why = False, driver.problem
    elif not served:
        works, why = False, f"{family.product} {version} has no code for {_names(driver)}"
    elif missing := _gpu_packages():
        works, why = False, "; ".join(missing)
    else:
        works, why = True, f"{family.product} {version}, {', '.join(f'{g.name} ({g.sm})' for g in served)}"
    builds = can_build and (family.builds_without_gpu or works)
    if builds and not works:
        why += "; engines can be built here for machines that have a GPU"
    return Finding(engine=family.backend, device="cuda", works=works, why=why, builds=builds)


def _gpu_packages() -> list[str]:
    """Return the missing packages among those that every GPU engine needs."""
    found = _found("cuda.bindings.driver")
    return [] if found else ["cuda-python is not installed: pip install 'gcis[cuda]'"]


def _names(driver: Driver) -> str:
    return ", ".join(f"{gpu.name} ({gpu.sm})" for gpu in driver.gpus)
