"""The system's locks on open files: they end with their process, however that happens."""

from __future__ import annotations

import importlib
import sys


def try_lock(file: int) -> bool:
    """Lock an open file, and tell whether that succeeded: another process may have it.

    Args:
        file: Its descriptor, open for writing; the lock ends when it is closed.

    Raises:
        OSError: The file system has no locks.
    """
    if sys.platform == "win32":
        try:
            importlib.import_module("msvcrt").locking(file, 2, 1)  # LK_NBLCK, one byte
        except OSError:
            return False
        return True
    import fcntl  # noqa: PLC0415 (not on Windows)

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
