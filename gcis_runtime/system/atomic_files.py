"""Outputs that appear whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gcis_runtime.errors import OutputError
from gcis_runtime.system.file_locks import try_lock

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.part(\.\w+)?", re.DOTALL)
"""Names of temporary files; see `_new_file`."""


@contextlib.contextmanager
def replacing(path: Path, *, suffix: str = "") -> Iterator[Path]:
    """Give a temporary file beside `path` that takes its name when the block ends well.

    The temporary file lies in the same folder, since a rename is atomic only within a file system. It is
    locked, so that `remove_leftovers` knows it from one whose process was killed.

    Args:
        path: The final name; its folder is created when missing.
        suffix: Ends the temporary file's name, for libraries that choose a format by it.

    Yields:
        The temporary file to write, not to replace by another.

    Raises:
        OutputError: The folder or file cannot be written (missing rights, full disk, a folder in the way).
    """
    temporary: Path | None = None
    file: int | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "a folder has that name")
        temporary, file = _new_file(path, suffix)
        yield temporary
        with temporary.open("rb") as written:  # on disk before it has the name: power may fail in between
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if file is not None:
            os.close(file)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of `replacing` whose process was killed; those that are being written stay.

    Where the system cannot tell (Windows, a file system without locks), all stay. A missing folder has none.
    """
    if sys.platform == "win32":
        return
    try:
        with os.scandir(folder) as entries:
            names = [
                e.name for e in entries if _LEFTOVER.fullmatch(e.name) and e.is_file(follow_symlinks=False)
            ]
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            file = os.open(folder / name, os.O_RDWR)
            try:
                if try_lock(file):
                    (folder / name).unlink()
            finally:
                os.close(file)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` that takes its name when the block ends well.

    Its files are on disk before it gets the name. An older folder of that name is exchanged for it in one
    step where the system can (Linux), so that a process killed at any moment leaves the one or the other;
    elsewhere the older one is moved aside first, and back if that fails.

    Args:
        path: The final name; the folders above it are created when missing.

    Yields:
        The temporary folder to fill.

    Raises:
        OSError: The system refuses (missing rights, full disk); `path` is as it was.
    """
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(0, "a file has that name")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp makes folders private
        for file in temporary.rglob("*"):
            if file.is_dir():
                file.chmod(0o755)
                continue
            file.chmod(0o644)
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if not path.exists():
            temporary.replace(path)
        elif not _exchange(temporary, path):
            _move_aside(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(one: Path, two: Path) -> bool:
    """Swap two names in one step; false where the system cannot."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform.startswith("linux") else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap is not None and swap(here, os.fsencode(one), here, os.fsencode(two), exchange) == 0


def _move_aside(temporary: Path, path: Path) -> None:
    """Rename, moving an older folder of that name aside first."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        path.replace(aside / path.name)
        try:
            temporary.replace(path)
        except OSError:
            (aside / path.name).replace(path)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Refuse early a file that could not be written later; leaves nothing behind.

    Raises:
        OutputError: The nearest existing folder above `path` takes no file, or a folder has its name.
    """
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "a folder has that name")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> OutputError:
    """Return the error for an output that the system refuses to write."""
    return OutputError(
        f"{path} cannot be written",
        received=error.strerror or str(error),
        fix="Choose another place for it.",
    )


def _new_file(path: Path, suffix: str) -> tuple[Path, int | None]:
    """Create an empty file beside `path` with the rights that the user's umask gives, and lock it.

    `tempfile` makes private ones, and to mend that the umask must be known: it can be read only by setting
    it, which every other thread would notice.

    Returns:
        The file, and the descriptor that holds its lock; None on Windows, where an open file is not renamed.
    """
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part{suffix}")
        with contextlib.suppress(FileExistsError):
            file = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            if sys.platform == "win32":
                os.close(file)
                return temporary, None
            if _hold(file, temporary):
                return temporary, file
            os.close(file)


def _hold(file: int, temporary: Path) -> bool:
    """Lock a new file; False where another process took it for a leftover before that."""
    try:
        return try_lock(file) and temporary.exists()
    except OSError:
        return True  # a file system without locks: nothing is removed there
