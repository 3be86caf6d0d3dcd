"""Count the processors that this process may use, and read the processor's name.

Engines that start a thread per processor of the machine run slower in containers with a CPU quota.
"""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

from gcis_runtime.errors import EngineError
from gcis_runtime.system.control_groups import CGROUP, MEMBERSHIP, control_groups

_CROWD = 8
"""Largest number of threads per processor. More than one is not faster; thousands block each other."""


def allowed_cpus() -> int:
    """Return the number of CPUs that affinity allows. Quotas limit CPU time and are ignored."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def usable_cpus(*, cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Return the number of CPUs that affinity and the quotas of control groups allow, at least 1.

    Args:
        cgroup: Mount point of the control groups (version 2, or version 1 under `cpu/` or `cpu,cpuacct/`).
        membership: File that lists the control groups of this process.
    """
    count = allowed_cpus()
    quotas = [
        quota for folder in control_groups("cpu", cgroup, membership) if (quota := _quota(folder)) is not None
    ]
    return max(1, min(count, math.ceil(min(quotas)))) if quotas else count


def cpu_fields() -> dict[str, str]:
    """Return the fields of the first processor in `/proc/cpuinfo`; empty on systems other than Linux."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def cpu_name() -> str:
    """Return the model name of the processor, or its architecture if the system reports no name."""
    return cpu_fields().get("model name") or platform.processor() or platform.machine()


def check_threads(threads: int | None) -> None:
    """Check a number of threads; None is valid.

    Raises:
        EngineError: `threads` is neither None nor an integer from 1 to 8 per processor.
    """
    most = _CROWD * (os.cpu_count() or 1)
    if threads is not None and (type(threads) is not int or not 1 <= threads <= most):
        raise EngineError(
            "the number of threads is invalid",
            received=repr(threads),
            expected=f"1 to {most}, {_CROWD} per processor of this machine",
            fix="Omit it to use every processor that this process may use.",
        )


def _quota(folder: Path) -> float | None:
    """Return the CPU quota of a control group in processors; None if the group has no quota."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        value = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return None  # "max"
    return value if value > 0 else None
