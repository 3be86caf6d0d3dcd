"""The most memory that a process has held, free of what its parent had."""

from __future__ import annotations

from pathlib import Path


def peak_bytes() -> int:
    """Return the most bytes that this process has had resident since its program began.

    `ru_maxrss` of a child begins at its parent's size; Linux's VmHWM does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    from gcis_runtime.metrics import peak_memory_bytes  # noqa: PLC0415 (needs nibabel, which may be missing)

    return peak_memory_bytes() or 0
