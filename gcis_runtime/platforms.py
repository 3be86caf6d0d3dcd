"""Hold every difference between Windows, macOS and Linux, with the rule that makes it necessary.

| rule | Windows | elsewhere |
|---|---|---|
| flush a file to disk | needs a handle that may write | any handle |
| lock a file | bytes of it; locked bytes cannot be read by others | the whole file, advisory |
| rename or remove an open file | refused | allowed |
| names | some reserved, case ignored | any (macOS ignores case) |
| swap two folders in one step | no | Linux only |
| user ids and modes | none; profiles are private | present |

`WINDOWS` is a variable of this module, so that tests can simulate the rules of Windows on another system.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

WINDOWS: bool = sys.platform == "win32"
LINUX: bool = sys.platform.startswith("linux")
MACOS: bool = sys.platform == "darwin"

CUDA_DRIVER = "nvcuda.dll" if WINDOWS else "libcuda.so.1"
"""Library of the CUDA driver."""
_MATH_LIBRARY = "ucrtbase" if WINDOWS else None
"""C library with `fesetround`, for `ctypes.CDLL`; None is the process itself, which is linked to it."""
_TO_NEAREST = 0
"""`FE_TONEAREST` of glibc, musl, Apple's and Microsoft's C libraries on x86-64 and ARM64."""
PEAK_MEMORY_UNIT = 1 if MACOS else 1024
"""Bytes per unit of `ru_maxrss`."""

_LOCKED_BYTE = 1 << 30
"""Position of the byte that is locked on Windows: behind the content, which others can then still read."""
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])( *\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')


def try_lock(file: int) -> bool:
    """Lock an open file without blocking; return False if another process holds the lock.

    Args:
        file: File descriptor, open for writing. Closing it releases the lock. Its position is kept.

    Raises:
        OSError: The file system does not support locks.
    """
    if WINDOWS:
        position = os.lseek(file, 0, os.SEEK_CUR)
        os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)  # `locking` starts at the position of the file
        try:
            importlib.import_module("msvcrt").locking(file, 2, 1)  # LK_NBLCK, one byte
        except PermissionError:
            return False
        finally:
            os.lseek(file, position, os.SEEK_SET)
        return True
    import fcntl  # noqa: PLC0415 (not on Windows)

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def seal_memory_file(file: int) -> None:
    """Seal a file of `os.memfd_create` against every change, also by this process (Linux).

    Raises:
        OSError: The file cannot be sealed.
    """
    import fcntl  # noqa: PLC0415 (not on Windows)

    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)


def flush_to_disk(path: Path) -> None:
    """Write a file from the system's cache to the disk.

    Raises:
        OSError: The disk is full or failed, or the file system cannot do this.
    """
    file = os.open(path, (os.O_RDWR if WINDOWS else os.O_RDONLY) | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(file)
    finally:
        os.close(file)


def exchange_paths(one: Path, two: Path) -> bool:
    """Swap two paths in one step; return False if the system or the file system cannot."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None) if LINUX else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap is not None and swap(here, os.fsencode(one), here, os.fsencode(two), exchange) == 0


def name_problem(name: str) -> str | None:
    """Return why Windows refuses a file name; None on other systems and for valid names."""
    if not WINDOWS:
        return None
    if _RESERVED.fullmatch(name):
        return "the name is reserved for a device"
    if name.endswith((" ", ".")):
        return "names cannot end in a space or a full stop"
    if found := _FORBIDDEN.search(name):
        return f"names cannot contain {found[0]!r}"
    return None


def name_key(name: str) -> str:
    """Return a key that is equal for names which the usual file system of this system cannot tell apart."""
    if not (WINDOWS or MACOS):
        return name
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def user_id() -> int | None:
    """Return the id of this process's user; None on Windows, where files do not have one."""
    return os.getuid() if hasattr(os, "getuid") else None


def user_is_known() -> bool:
    """Return whether the system has an entry for this process's user; False on Windows, which has no list."""
    try:
        import pwd  # noqa: PLC0415 (not on Windows)

        pwd.getpwuid(os.getuid())
    except (ImportError, KeyError, OSError):
        return False
    return True


@contextlib.contextmanager
def nearest_rounding() -> Iterator[None]:
    """Round to nearest in this thread, and restore the direction at the end; usable as a decorator.

    Threads that start meanwhile take over this direction.
    """
    if _rounds_to_nearest(1.0, 2.0**-55):
        yield
        return
    library = ctypes.CDLL(_MATH_LIBRARY)
    before = library.fegetround()
    library.fesetround(_TO_NEAREST)
    try:
        yield
    finally:
        library.fesetround(before)


def _rounds_to_nearest(one: float, tiny: float) -> bool:
    """Return whether sums of `one` and a number far below its last bit are `one`."""
    return one + tiny == one == one - tiny
