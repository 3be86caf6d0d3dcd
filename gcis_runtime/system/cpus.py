"""How many processors this process may use; engines that count the machine's run slower in containers."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gcis_runtime.errors import EngineError

_CGROUP = Path("/sys/fs/cgroup")
_CROWD = 8
"""Threads a processor: more than one gain nothing; thousands spin for each other and never end."""
_MEMBERSHIP = Path("/proc/self/cgroup")


def allowed_cpus() -> int:
    """Return the number of CPUs that affinity allows; quotas share out time and name no processor."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def usable_cpus(*, cgroup: Path = _CGROUP, membership: Path = _MEMBERSHIP) -> int:
    """Return the number of CPUs that affinity and the quotas of control groups allow, at least 1.

    Args:
        cgroup: Where control groups are mounted (version 2, or version 1 under `cpu/` or `cpu,cpuacct/`).
        membership: Which groups this process is in: `/proc/self/cgroup`.
    """
    count = allowed_cpus()
    quotas = [quota for folder in _groups(cgroup, membership) if (quota := _quota(folder)) is not None]
    return max(1, min(count, math.ceil(min(quotas)))) if quotas else count


def cpu_fields() -> dict[str, str]:
    """Return the first processor's fields of `/proc/cpuinfo`; empty elsewhere than on Linux."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def cpu_name() -> str:
    """Return this machine's processor, as far as the system names it."""
    return cpu_fields().get("model name") or platform.processor() or platform.machine()


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that is none, or that would only get in each other's way.

    Raises:
        EngineError: It is neither None nor between 1 and `_CROWD` a processor.
    """
    most = _CROWD * (os.cpu_count() or 1)
    if threads is not None and (type(threads) is not int or not 1 <= threads <= most):
        raise EngineError(
            "no number of threads",
            received=repr(threads),
            expected=f"1 to {most}, {_CROWD} a processor of this machine",
            fix="Leave it out: then the processors that this process may use are counted.",
        )


def _groups(cgroup: Path, membership: Path) -> Iterator[Path]:
    """Give the folders of every group that limits this process: its own and those above it.

    In a container with a namespace of its own the group is the mount's root; elsewhere it lies below.
    """
    yield cgroup
    for controller in ("cpu", "cpu,cpuacct"):
        yield cgroup / controller
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        root = cgroup / controllers if controllers else cgroup
        for mount in {root, cgroup / "cpu"} if controllers else {root}:
            below = PurePosixPath(path.strip("/"))
            yield from (mount / part for part in (below, *below.parents))


def _quota(folder: Path) -> float | None:
    """Return a group's CPU quota in processors; None when there is none."""
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
