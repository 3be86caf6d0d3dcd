"""Lock open files with the operating system, which releases the lock when the process ends."""

from __future__ import annotations

import importlib
import sys


def try_lock(file: int) -> bool:
    """Lock an open file without blocking; return False if another process holds the lock.

    Args:
        file: File descriptor, open for writing. Closing it releases the lock.

    Raises:
        OSError: The file system does not support locks.
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
