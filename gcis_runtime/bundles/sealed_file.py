"""Keep a copy of a file in memory that nobody can change, and that libraries can open by a path."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from gcis_runtime.platforms import seal_memory_file

_FOLDER = Path("/proc/self/fd")


@contextlib.contextmanager
def memory_file(name: str) -> Iterator[int | None]:
    """Create a file in memory and close it at the end; yield its descriptor, or None where there are none.

    Memory files that can be sealed exist on Linux.
    """
    if not hasattr(os, "memfd_create") or not _FOLDER.is_dir():
        yield None
        return
    try:
        handle = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:  # forbidden by a sandbox
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def sealed_path(handle: int) -> str:
    """Seal a memory file against every change, also by this process, and return a path that opens it.

    Raises:
        OSError: The file cannot be sealed.
    """
    seal_memory_file(handle)
    return str(_FOLDER / str(handle))
