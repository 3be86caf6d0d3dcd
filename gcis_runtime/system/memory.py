"""Parse and format amounts of memory, and measure the memory that this process uses."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gcis_runtime.errors import OutputError
from gcis_runtime.platforms import PEAK_MEMORY_UNIT
from gcis_runtime.system.control_groups import CGROUP, MEMBERSHIP, control_groups

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")


def parse_bytes(text: str) -> int:
    """Parse an amount such as `2G`, `1.5GiB`, `800M` or `1000000` and return bytes; units are powers of 1024.

    Raises:
        OutputError: The text is not an amount, or the amount is zero.
    """
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size <= 0:
        raise OutputError(
            "not an amount of memory",
            received=repr(text),
            expected="a positive number of bytes, with or without a unit K, M, G or T",
            fix="Write it as 2G or 800M.",
        )
    return size


def bytes_text(size: int) -> str:
    """Format bytes as text: `1.25 GiB`, `310 MiB`."""
    return f"{size / 2**30:.2f} GiB" if size >= 1 << 30 else f"{max(1, round(size / 2**20))} MiB"


def resident_bytes() -> int | None:
    """Return the resident memory of this process in bytes; None if the system does not report it."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes(
    *, cgroup: Path = CGROUP, membership: Path = MEMBERSHIP, meminfo: Path = _MEMINFO
) -> int | None:
    """Return by how many bytes this process may grow before the system or its container stops it.

    Args:
        cgroup: Mount point of the control groups.
        membership: File that lists the control groups of this process.
        meminfo: File with the memory of the machine.

    Returns:
        The least of the free memory of the machine with its swap and that of all control groups (versions 1
        and 2); memory of the file cache counts as free. None if the system reports neither.
    """
    found = [_left(folder) for folder in control_groups("memory", cgroup, membership)]
    machine = _numbers(meminfo)
    if "MemAvailable" in machine:
        found.append((machine["MemAvailable"] + machine.get("SwapFree", 0)) * 1024)
    return min((size for size in found if size is not None), default=None)


def _left(group: Path) -> int | None:
    """Return the memory that a control group has left in bytes; None without a limit."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            size = int((group / limit).read_text()) - int((group / used).read_text())
        except (OSError, ValueError):  # "max"
            continue
        return max(0, size + _numbers(group / "memory.stat").get(cache, 0))
    return None


def _numbers(file: Path) -> dict[str, int]:
    """Return the numbers of a file with a name and a number per line; empty if it cannot be read."""
    try:
        rows = [line.replace(":", " ").split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def peak_memory_bytes() -> int | None:
    """Return the peak resident memory of this process in bytes; None if the system does not report it.

    Linux resets `VmHWM` when a program is executed. `ru_maxrss`, the portable value, starts at the resident
    memory of the parent process at the fork.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        import resource  # noqa: PLC0415 (not on Windows)
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * PEAK_MEMORY_UNIT
