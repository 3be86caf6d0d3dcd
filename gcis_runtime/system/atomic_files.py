"""Write files and folders atomically: an output is complete, or it does not exist."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from gcis_runtime.errors import OutputError
from gcis_runtime.system.file_locks import try_lock
from gcis_runtime.system.own_files import create_new, open_plain
from gcis_runtime.system.unfinished import unfinished

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.part(\.\w+)?", re.DOTALL)
"""Names of temporary files and folders; see `_new_file` and `_new_folder`."""


@contextlib.contextmanager
def replacing(path: Path, *, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary file next to `path`, and rename it to `path` when the block ends without an error.

    The temporary file is in the same folder, since a rename is atomic only within a file system. It is
    locked, so that `remove_leftovers` can distinguish it from the file of a process that was killed.

    Args:
        path: Final path of the file. Its folder is created if it does not exist.
        suffix: Suffix of the temporary file, for libraries that choose the format by suffix.

    Yields:
        The temporary file. Write to it in place; do not replace it by another file.

    Raises:
        OutputError: The folder or file cannot be written (no permission, full disk, `path` is a folder).
    """
    temporary: Path | None = None
    file: int | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "a folder has that name")
        temporary, file = _new_file(path, suffix)
        with unfinished(temporary):
            yield temporary
            _flush(temporary, file)
            temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if file is not None:
            os.close(file)


def _flush(temporary: Path, file: int | None) -> None:
    """Flush a file to disk before its rename, so that a power failure leaves no empty file.

    Raises:
        OSError: Another file or a link has taken its place, as happens in folders that others can write to.
    """
    if file is None:
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        return
    if not os.path.samestat(temporary.lstat(), os.fstat(file)):
        raise OSError(0, "the temporary file was replaced by another")
    os.fsync(file)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders whose process was killed; those being written are kept.

    Nothing is removed on Windows, on file systems without locks, or if the folder does not exist.
    """
    if sys.platform == "win32":
        return
    try:
        with os.scandir(folder) as entries:
            found = [e for e in entries if _LEFTOVER.fullmatch(e.name) and not e.is_symlink()]
            folders = {e.name: e.is_dir(follow_symlinks=False) for e in found}
    except OSError:
        return
    for name, is_folder in folders.items():
        with contextlib.suppress(OSError):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            path = folder / name
            file = os.open(path, flags) if is_folder else open_plain(path, writable=True)
            try:
                if not try_lock(file):
                    continue
                if not is_folder:
                    path.unlink()
                elif os.fstat(file).st_uid == os.geteuid():
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(file)


def exchange_paths(one: Path, two: Path) -> bool:
    """Swap two paths in one step; return False if the system cannot (any system but Linux)."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform.startswith("linux") else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap is not None and swap(here, os.fsencode(one), here, os.fsencode(two), exchange) == 0


@contextlib.contextmanager
def replacing_folder(
    path: Path, *, exchange: Callable[[Path, Path], bool] = exchange_paths
) -> Iterator[Path]:
    """Yield a temporary folder next to `path`, and rename it to `path` when the block ends without an error.

    Its files are flushed to disk before the rename. An existing folder is exchanged in one step on Linux, so
    that a process killed at any moment leaves either the old or the new folder. On other systems the existing
    folder is first moved aside, and moved back if the rename fails. What killed processes left next to `path`
    is removed first.

    Args:
        path: Final path of the folder. Its parent folders are created if they do not exist.
        exchange: Swaps two paths in one step, and returns False if the system cannot.

    Yields:
        The temporary folder, empty.

    Raises:
        OSError: The system refuses (no permission, full disk); `path` is unchanged.
    """
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(0, "a file has that name")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    temporary, lock = _new_folder(path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(unfinished(temporary))
        stack.callback(_close, lock)
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
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
        elif not exchange(temporary, path):
            _move_aside(temporary, path)


def _move_aside(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path` after moving the existing folder aside."""
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
    """Check that a file can be written, without leaving anything behind.

    Raises:
        OutputError: No file can be created in the nearest existing parent folder, or `path` is a folder.
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
        expected="a folder that this user can write to",
        fix="Choose another output path, or free disk space.",
    )


def _new_file(path: Path, suffix: str) -> tuple[Path, int | None]:
    """Create an empty file next to `path` with the permissions of the user's umask, and lock it.

    `tempfile` is not used: it creates files with mode 0600, and the umask that would correct the mode can
    only be read by setting it, which affects all threads.

    Returns:
        The file and the descriptor that holds its lock; None on Windows, where an open file cannot be
        renamed.
    """
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part{suffix}")
        with contextlib.suppress(FileExistsError):
            file = create_new(temporary, mode=0o666)
            if sys.platform == "win32":
                os.close(file)
                return temporary, None
            if _hold(file, temporary):
                return temporary, file
            os.close(file)


def _new_folder(path: Path) -> tuple[Path, int | None]:
    """Create an empty, private folder next to `path`, and lock it.

    Returns:
        The folder and the descriptor that holds its lock; None on systems that do not open folders.
    """
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        with contextlib.suppress(FileExistsError):
            temporary.mkdir(mode=0o700)
            if sys.platform == "win32":
                return temporary, None
            file = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            if _hold(file, temporary):
                return temporary, file
            os.close(file)


def _close(file: int | None) -> None:
    if file is not None:
        os.close(file)


def _hold(file: int, temporary: Path) -> bool:
    """Lock a new file; return False if `remove_leftovers` of another process removed it before."""
    try:
        return try_lock(file) and temporary.exists()
    except OSError:
        return True  # a file system without locks, where `remove_leftovers` removes nothing
