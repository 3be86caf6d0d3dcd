"""Parse and format amounts of memory, and measure the memory that this process uses."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gcis_runtime.errors import OutputError
from gcis_runtime.platforms import PEAK_MEMORY_UNIT

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_STATM = Path("/proc/self/statm")


def parse_bytes(text: str) -> int:
    """Parse an amount such as `2G`, `1.5GiB`, `800M` or `1000000` and return bytes; units are powers of 1024.

    Raises:
        OutputError: The text is not an amount, or the amount is zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
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
