"""Limit the memory of a run: to what the user allows, or to what the machine and its container have left."""

from __future__ import annotations

from pathlib import Path

from gcis_runtime.errors import MemoryLimitError
from gcis_runtime.images.files import voxel_bytes
from gcis_runtime.system.memory import available_bytes, bytes_text, resident_bytes

INTERPRETER_BYTES = 160 << 20
"""Bytes of Python with NumPy and the libraries of an engine, used if the resident memory is unknown."""


def memory_limit(allowed: int | None, resident: int) -> int | None:
    """Return the limit of the resident memory in bytes: the requested one, or that of the machine."""
    if allowed is not None:
        return allowed
    available = available_bytes()
    return None if available is None else resident + available


def more_memory(allowed: int | None, needed: int) -> str:
    """Return how to get more memory."""
    option = f"--max-memory {(needed >> 20) + 1}M"
    if allowed is not None:
        return f"Allow {option}"
    return f"Free memory or give the container more, override this check with {option}"


def check_image(path: Path, allowed: int | None, *, size: int | None = None) -> None:
    """Check before reading a file that its voxels alone do not exceed the memory limit.

    Args:
        path: The image file.
        allowed: Limit of the resident memory in bytes; None for that of the machine and its container.
        size: Bytes of its voxels; None reads them from the header of the file.

    Raises:
        MemoryLimitError: They exceed it.
        ImageError: The file cannot be read.
    """
    resident = resident_bytes() or INTERPRETER_BYTES
    limit = memory_limit(allowed, resident)
    if limit is None:
        return
    needs = (voxel_bytes(path) if size is None else size) + resident
    if needs > limit:
        raise MemoryLimitError(
            f"{path} needs more memory than is {'available' if allowed is None else 'allowed'}",
            received=f"{bytes_text(needs)} with its voxels and the engine",
            expected=f"at most {bytes_text(limit)}",
            fix=f"{more_memory(allowed, needs)}.",
        )
