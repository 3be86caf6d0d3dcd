"""One run at a time in a folder. The system drops the lock when its process ends, however that happens."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gcis_runtime.errors import OutputError
from gcis_runtime.system.atomic_files import unwritable
from gcis_runtime.system.file_locks import try_lock

NAME = ".gcis-run.lock"


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; it is created when missing.

    The lock is the system's on the file `.gcis-run.lock`, which says who holds it and is removed afterwards.

    Raises:
        OutputError: Another run holds it, or the folder cannot be written.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
    finally:
        # Removed while locked, where the system can: whoever has just opened it sees that it has no name.
        with contextlib.suppress(OSError):
            path.unlink()
        file.close()


def _locked(path: Path) -> IO[str]:
    """Open and lock the file of this name."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            _lock(file)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "a process that has just started"
            file.close()
            raise OutputError(
                f"{path.parent} is in use by another gcis-run",
                received=holder,
                fix="Wait for it, or choose another folder with -o.",
            ) from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()  # its last holder removed it after it was opened here


def _lock(file: IO[str]) -> None:
    """Lock an open file or raise BlockingIOError."""
    if not try_lock(file.fileno()):
        raise BlockingIOError
