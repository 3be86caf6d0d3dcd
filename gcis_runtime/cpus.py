"""How many processors this process may use; engines that count the machine's run slower in containers."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cpus(*, cgroup: Path = _CGROUP) -> int:
    """Return the number of CPUs that affinity and the container's quota allow, at least 1.

    Args:
        cgroup: Where control groups are mounted (version 2, or version 1 under `cpu/`).
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _quota(cgroup)
    return max(1, min(count, math.ceil(quota))) if quota else count


def _quota(cgroup: Path) -> float | None:
    """Return the CPU quota in processors; None when there is none."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        value = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return None  # "max"
    return value if value > 0 else None
