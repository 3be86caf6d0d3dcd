"""Open files in folders that others may write to: through no link, plain files only, limited in size.

A link in place of a lock, record or cache entry would let its owner choose which file is read or overwritten.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Opening a named pipe would block without O_NONBLOCK, which has no effect on plain files."""
_STEPWISE = os.open in os.supports_dir_fd and bool(_NOFOLLOW)


class LinkError(OSError):
    """A path leads through a symbolic link."""


class NotPlainError(OSError):
    """A path is a folder, named pipe, socket or device."""


class TooLargeError(OSError):
    """A file is larger than expected."""


def open_plain(path: Path, *, writable: bool = False) -> int:
    """Open an existing plain file, and return its descriptor.

    Args:
        path: The file. Its folder may be reached through links; the file itself may not be one.
        writable: Open for reading and writing.

    Raises:
        LinkError: The file is a link.
        NotPlainError: It is not a plain file.
        OSError: It cannot be opened.
    """
    if not _NOFOLLOW and path.is_symlink():
        raise _link(path)
    flags = (os.O_RDWR if writable else os.O_RDONLY) | _NOFOLLOW | _FLAGS
    return _plain(_opened(path, str(path), flags, None), path)


def create_new(path: Path, *, mode: int = 0o600) -> int:
    """Create a file that does not exist, and return its descriptor, open for reading and writing.

    Raises:
        FileExistsError: Something has that name, even a link that leads nowhere.
        OSError: The file cannot be created.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _FLAGS, mode)


def open_append(path: Path) -> int:
    """Open a plain file for appending, which is created if it does not exist, and return its descriptor.

    Raises:
        LinkError, NotPlainError, OSError: See `open_plain`.
    """
    if not _NOFOLLOW and path.is_symlink():
        raise _link(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NOFOLLOW | _FLAGS
    return _plain(_opened(path, str(path), flags, None), path)


def open_inside(folder: Path, relative: str) -> BinaryIO:
    """Open a plain file in a folder, through no link below the folder.

    Args:
        folder: The folder, which may itself be reached through links.
        relative: Path below the folder with `/`, without `..`.

    Raises:
        LinkError: Part of the path is a link.
        NotPlainError: The file is not a plain file.
        OSError: The file is missing or cannot be opened.
    """
    path, parts = folder / relative, PurePosixPath(relative).parts
    if not _STEPWISE:
        for above in (*list(path.parents)[: len(parts) - 1], path):
            if above.is_symlink():
                raise _link(above)
        return os.fdopen(open_plain(path), "rb")
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
    try:
        for i, name in enumerate(parts):
            kind = 0 if i == len(parts) - 1 else os.O_DIRECTORY
            below = _opened(
                folder.joinpath(*parts[: i + 1]), name, os.O_RDONLY | kind | _NOFOLLOW | _FLAGS, here
            )
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return os.fdopen(_plain(here, path), "rb")


def read_small(path: Path, *, most_bytes: int) -> bytes:
    """Return the content of a plain file.

    Raises:
        TooLargeError: The file has more than `most_bytes`.
        OSError: See `open_plain`.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise TooLargeError(errno.EFBIG, f"more than {most_bytes} bytes", str(path))
    return data


def _opened(path: Path, name: str, flags: int, folder: int | None) -> int:
    """Open a path; a link is a `LinkError`. Systems report links by different error numbers."""
    try:
        return (
            os.open(name, flags, 0o666, dir_fd=folder) if folder is not None else os.open(name, flags, 0o666)
        )
    except OSError as error:
        if path.is_symlink():
            raise _link(path) from error
        raise


def _plain(file: int, path: Path) -> int:
    """Return a descriptor if it is that of a plain file; close it otherwise."""
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise NotPlainError(errno.EINVAL, "not a plain file", str(path))
    return file


def _link(path: Path) -> LinkError:
    return LinkError(errno.ELOOP, "a symbolic link", str(path))
