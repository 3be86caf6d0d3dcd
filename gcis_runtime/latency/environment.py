"""Describe the machine of a measurement: processor, limits, GPUs, packages and commit."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

from gcis_runtime.engines.gpu.probe import probe_driver
from gcis_runtime.system.cpus import allowed_cpus, cpu_fields, cpu_name, usable_cpus

_PACKAGES = (
    "gcis",
    "numpy",
    "torch",
    "monai",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "cuda-python",
    "open_clip_torch",
)
_UNLIMITED = 1 << 60
"""Control groups of version 1 report the largest number of pages where there is no limit."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def environment() -> dict[str, Any]:
    """Return processor, limits, GPUs, packages, commit and time of this run, ready for JSON.

    Values that the system does not report are None.
    """
    info = cpu_fields()
    driver = probe_driver()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": {
            "model": cpu_name(),
            "family": info.get("cpu family"),
            "flags": [flag for flag in _FLAGS if flag in info.get("flags", "").split()],
            "logical": os.cpu_count(),
            "usable": usable_cpus(),
            "mhz": float(info["cpu MHz"]) if "cpu MHz" in info else None,
            "governor": _line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        },
        "cgroup": {"cpus": _cpu_quota(), "memory_bytes": _memory_limit()},
        "variables": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
        "scheduling": _scheduling(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpus": gpus() if driver.gpus else [],
        "gpu_problem": driver.problem,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "commit": _commit(),
    }


def gpus() -> list[dict[str, Any]]:
    """Return name, driver, memory and current clocks of each NVIDIA GPU, as reported by `nvidia-smi`."""
    fields = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "clocks.mem", "pstate")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return [
            {"name": gpu.name, "memory_mib": gpu.memory >> 20, "capability": gpu.sm}
            for gpu in probe_driver().gpus
        ]
    keys = ("name", "driver", "memory_mib", "sm_mhz", "sm_mhz_max", "memory_mhz", "state")
    rows = [
        dict(zip(keys, map(str.strip, line.split(",")), strict=True)) for line in done.stdout.splitlines()
    ]
    return [{k: int(v) if v.isdigit() else v for k, v in row.items()} for row in rows]


def _scheduling() -> str | None:
    """Return the scheduling policy of this process, such as `"other, nice 0"`."""
    if not hasattr(os, "sched_getscheduler"):
        return None
    names = {os.SCHED_OTHER: "other", os.SCHED_FIFO: "first in, first out", os.SCHED_RR: "round robin"}
    policy = os.sched_getscheduler(0)
    real_time = f", real-time priority {os.sched_getparam(0).sched_priority}"
    kind = names.get(policy, str(policy))
    return kind + (f", nice {os.nice(0)}" if policy == os.SCHED_OTHER else real_time)


def _cpu_quota() -> int | None:
    """Return the number of CPUs if control groups allow fewer than the CPU affinity; None otherwise."""
    usable = usable_cpus()
    return None if usable == allowed_cpus() else usable


def _memory_limit(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Return the lowest memory limit of this process's control groups in bytes; None without a limit."""
    limits = []
    for line in (_line(membership) or "").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number != "0" and "memory" not in controllers.split(","):
            continue
        mount, file = (root, "memory.max") if number == "0" else (root / "memory", "memory.limit_in_bytes")
        below = PurePosixPath(path.strip("/"))
        limits += [_line(mount / part / file) for part in (below, *below.parents)]
    numbers = [int(text) for text in limits if text and text.isdigit()]
    found = min(numbers, default=_UNLIMITED)
    return found if found < _UNLIMITED else None


def _line(path: Path) -> str | None:
    """Return the stripped text of a small file; None if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the checkout, marked if files have changed since; None outside a checkout.

    An installed package may lie below another project's repository, whose commit would mislead.
    """
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
