"""Write files and folders atomically: an output is complete, or it does not exist."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from gcis_runtime import platforms
from gcis_runtime.errors import UnwritableError
from gcis_runtime.platforms import exchange_paths, try_lock
from gcis_runtime.system.own_files import create_new, open_plain
from gcis_runtime.system.unfinished import unfinished
from gcis_runtime.system.weak_file_systems import flush, rename, rename_folder, set_mode, short_name

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
        UnwritableError: The folder or file cannot be written (no permission, full disk, `path` is a folder).
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
            _check_same(temporary, file)
            flush(temporary)
            rename(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if file is not None:
            os.close(file)


def _check_same(temporary: Path, file: int | None) -> None:
    """Raise an error unless a path is still that of an open file.

    Raises:
        OSError: Another file or a link has taken its place, as happens in folders that others can write to.
    """
    if file is not None and not os.path.samestat(temporary.lstat(), os.fstat(file)):
        raise OSError(0, "the temporary file was replaced by another")


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders whose process was killed; those being written are kept.

    Nothing is removed on Windows, on file systems without locks, or if the folder does not exist.
    """
    if platforms.WINDOWS:
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
        set_mode(temporary, 0o755)  # mkdtemp makes folders private
        for file in temporary.rglob("*"):
            if file.is_dir():
                set_mode(file, 0o755)
                continue
            set_mode(file, 0o644)
            flush(file)
        if not path.exists():
            rename_folder(temporary, path)
        elif not exchange(temporary, path):
            _move_aside(temporary, path)


def _move_aside(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path` after moving the existing folder aside.

    Where folders cannot be renamed, the existing one is copied aside, and the new files are copied over it.
    """
    aside = Path(tempfile.mkdtemp(prefix=f".{short_name(path.name, 20)}.old.", dir=path.parent))
    old = aside / path.name
    try:
        rename_folder(path, old)
        shutil.rmtree(path, ignore_errors=True)  # if it was copied
        try:
            rename_folder(temporary, path)
        except OSError:
            rename_folder(old, path)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def private_folder(path: Path) -> None:
    """Create a folder that only this user can open, and its parents; an existing one stays as it is.

    Raises:
        UnwritableError: The folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise unwritable(path, error) from error


def remove_folder(path: Path, gone: Path) -> None:
    """Rename a folder to `gone`, and remove it.

    If the process is killed meanwhile, a part of the folder remains under the name `gone` alone.
    """
    with contextlib.suppress(OSError):
        path.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)


def unwritable(path: Path, error: OSError) -> UnwritableError:
    """Return the error for an output that the system refuses to write."""
    return UnwritableError(
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
        start = short_name(path.name, len(f"..{8 * 'x'}.part{suffix}"))
        temporary = path.with_name(f".{start}.{secrets.token_hex(4)}.part{suffix}")
        with contextlib.suppress(FileExistsError):
            file = create_new(temporary, mode=0o666)
            if platforms.WINDOWS:
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
        start = short_name(path.name, len(f"..{8 * 'x'}.part"))
        temporary = path.with_name(f".{start}.{secrets.token_hex(4)}.part")
        with contextlib.suppress(FileExistsError):
            temporary.mkdir(mode=0o700)
            if platforms.WINDOWS:
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
