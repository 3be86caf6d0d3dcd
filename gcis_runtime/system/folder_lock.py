"""Lock an output folder, so that one run at a time writes to it.

The operating system releases the lock when the process ends, even if it is killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from gcis_runtime import platforms
from gcis_runtime.errors import OutputError
from gcis_runtime.platforms import try_lock
from gcis_runtime.system.atomic_files import unwritable
from gcis_runtime.system.own_files import create_new, open_plain
from gcis_runtime.system.weak_file_systems import locks_are_missing
from gcis_runtime.text import printable

NAME = ".gcis-run.lock"
_ANY_LOCK = ".gcis-run*.lock"
_PART_LOCK = re.compile(r"\.gcis-run\.shard-\d+-of-(\d+)\.lock")
_MOST = 1024
"""Bytes of a lock file that are read; it has one line."""


class PartOfRun(Protocol):
    """A part of a run; `runs.shard.Shard` is the implementation."""

    @property
    def count(self) -> int:
        """Number of parts."""
        ...

    @property
    def suffix(self) -> str:
        """Part of the names of its files."""
        ...


@contextlib.contextmanager
def folder_lock(
    folder: Path, *, part: PartOfRun | None = None, try_lock: Callable[[int], bool] = try_lock
) -> Iterator[None]:
    """Hold the lock of a folder, which is created if it does not exist.

    The file `.gcis-run.lock` is locked. It contains the process that holds the lock and is removed
    afterwards. The parts of one run lock a file each, so that they run at the same time. A part and a whole
    run, or parts of runs that are divided differently, exclude each other: they would write the same files.

    Args:
        folder: The folder.
        part: Part of a run; None for the whole run.
        try_lock: Locks a file descriptor, and returns False if another process holds the lock.

    Raises:
        OutputError: Another run holds the lock, or the folder cannot be written.
    """
    path = folder / (NAME if part is None else f".gcis-run.{part.suffix}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(path, try_lock)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        if platforms.WINDOWS:  # an old file of this module is reused: it cannot be removed while open
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        _refuse_others(path, part, try_lock)  # after locking: of two that start together, one sees the other
        yield
    finally:
        # Removed while locked: a process that has just opened the file notices that its path is gone, and
        # opens a new one. Windows removes no open file, neither this one nor that of another process.
        if platforms.WINDOWS:
            os.close(file)
        with contextlib.suppress(OSError):
            path.unlink()
        if not platforms.WINDOWS:
            os.close(file)


def _refuse_others(own: Path, part: PartOfRun | None, try_lock: Callable[[int], bool]) -> None:
    """Raise an error if a run holds a lock of the folder that excludes this one."""
    for path in own.parent.glob(_ANY_LOCK):
        divided = _PART_LOCK.fullmatch(path.name)
        if path == own or (part is not None and divided is not None and int(divided[1]) == part.count):
            continue
        try:
            file = open_plain(path, writable=True)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            if not _lock(file, path.parent, try_lock):
                raise _in_use(path, file)
        finally:
            os.close(file)


def _locked(path: Path, try_lock: Callable[[int], bool]) -> int:
    """Create and lock a file, and return its descriptor.

    The file that a killed process left is removed and created anew. Nothing is written to a file that exists:
    it may be a link, or the file of somebody else.
    """
    while True:
        try:
            file, new = create_new(path, mode=0o666), True
        except FileExistsError:
            try:
                file, new = open_plain(path, writable=True), False
            except FileNotFoundError:
                continue  # the holder has just removed it
        try:
            if not _lock(file, path.parent, try_lock):
                raise _in_use(path, file)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.lstat(), os.fstat(file)):
                    if new or (platforms.WINDOWS and _is_ours(file)):
                        return file
                    _remove_old(path, file)
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # removed here, or by the previous holder after it was opened here


def _lock(file: int, folder: Path, try_lock: Callable[[int], bool]) -> bool:
    """Lock a file; where there are no locks, continue without one."""
    try:
        return try_lock(file)
    except OSError as error:
        if locks_are_missing(error, folder, "do not start another run into it"):
            return True
        raise


def _in_use(path: Path, file: int) -> OutputError:
    holder = os.pread(file, _MOST, 0) if hasattr(os, "pread") else b""
    text = printable(holder.decode("utf-8", errors="replace").strip())
    return OutputError(
        f"{path.parent} is in use by another process of gCIS",
        received=text or "a process that has just started",
        fix="Wait for it, or choose another folder.",
    )


def _remove_old(path: Path, file: int) -> None:
    """Remove the lock file of a process that ended without removing it."""
    if not _is_ours(file):
        raise OutputError(
            f"{path} is not a lock file of gCIS",
            received="a file with other content",
            expected="no such file",
            fix="Move it elsewhere, or choose another folder.",
        )
    path.unlink()


def _is_ours(file: int) -> bool:
    """Return whether a lock file has the content that this module writes, or none yet."""
    os.lseek(file, 0, os.SEEK_SET)
    content = os.read(file, _MOST)
    return re.fullmatch(rb"(process \d+ on [^\n]*\n)?", content) is not None
