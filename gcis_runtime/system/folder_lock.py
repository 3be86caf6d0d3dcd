"""Lock an output folder, so that one run at a time writes to it.

The operating system releases the lock when the process ends, even if it is killed.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from gcis_runtime import platforms
from gcis_runtime.errors import OutputError
from gcis_runtime.system.atomic_files import unwritable
from gcis_runtime.system.file_locks import try_lock
from gcis_runtime.system.weak_file_systems import locks_are_missing

NAME = ".gcis-run.lock"


@contextlib.contextmanager
def folder_lock(folder: Path, *, try_lock: Callable[[int], bool] = try_lock) -> Iterator[None]:
    """Hold the lock of a folder, which is created if it does not exist.

    The file `.gcis-run.lock` is locked. It contains the process that holds the lock and is removed
    afterwards.

    Args:
        folder: The folder.
        try_lock: Locks a file descriptor, and returns False if another process holds the lock.

    Raises:
        OutputError: Another run holds the lock, or the folder cannot be written.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(path, try_lock)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
    finally:
        # Removed while locked: a process that has just opened the file notices that its path is gone, and
        # opens a new one. Windows removes no open file, neither this one nor that of another process.
        if platforms.WINDOWS:
            file.close()
        with contextlib.suppress(OSError):
            path.unlink()
        file.close()


def _locked(path: Path, try_lock: Callable[[int], bool]) -> IO[str]:
    """Open and lock a file, which is created if it does not exist."""
    while True:
        file = path.open("a+", encoding="utf-8")
        if not _lock(file, path.parent, try_lock):
            file.seek(0)
            holder = file.read().strip() or "a process that has just started"
            file.close()
            raise OutputError(
                f"{path.parent} is in use by another gcis-run",
                received=holder,
                fix="Wait for it, or choose another folder with -o.",
            )
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()  # the previous holder removed the file after it was opened here


def _lock(file: IO[str], folder: Path, try_lock: Callable[[int], bool]) -> bool:
    """Lock a file; where there are no locks, continue without one."""
    try:
        return try_lock(file.fileno())
    except OSError as error:
        if locks_are_missing(error, folder, "do not start another run into it"):
            return True
        file.close()
        raise
