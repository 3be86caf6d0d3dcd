"""Amounts of memory: read from options, written for people, asked of the system."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from gcis_runtime.errors import OutputError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_STATM = Path("/proc/self/statm")


def parse_bytes(text: str) -> int:
    """Read an amount such as `2G`, `1.5GiB`, `800M` or `1000000`; units are powers of 1024.

    Raises:
        OutputError: It is none, or nothing.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size <= 0:
        raise OutputError("not an amount of memory", received=repr(text), expected="such as 2G or 800M")
    return size


def bytes_text(size: int) -> str:
    """Return an amount for people: `1.25 GiB`, `310 MiB`."""
    return f"{size / 2**30:.2f} GiB" if size >= 1 << 30 else f"{max(1, round(size / 2**20))} MiB"


def resident_bytes() -> int | None:
    """Return the memory that this process has resident now; None where the system does not say."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory_bytes() -> int | None:
    """Return the most memory that this process has had resident; None where the system does not say.

    Linux's own figure begins with the program; the portable one with what the parent process was at the fork.
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
    return peak if sys.platform == "darwin" else peak * 1024
