"""Rehearse the writing of outputs before computing them: the same folder, name length and system calls."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from gcis_runtime.errors import OutputError
from gcis_runtime.platforms import name_problem
from gcis_runtime.system.atomic_files import replacing, replacing_folder, unwritable


def check_writable(path: Path, *, longest: Path | None = None) -> None:
    """Check that a file can be written, by writing a small file next to it as `replacing` does.

    Missing folders are created for the rehearsal and removed again.

    Args:
        path: The file, which is named in errors.
        longest: Another file in the same folder whose name is longer.

    Raises:
        OutputError: The file cannot be written, `path` is a folder, or its name is invalid.
    """
    check_name(path)
    with _folder(path):
        if path.is_dir():
            raise unwritable(path, IsADirectoryError(0, "a folder has that name"))
        stand_in = _stand_in(path if longest is None else longest)
        try:
            with replacing(stand_in) as temporary:
                temporary.write_bytes(b"rehearsal")
        except OutputError as error:
            raise unwritable(path, OSError(0, error.received or error.message)) from error
        finally:
            with contextlib.suppress(OSError):
                stand_in.unlink()


def check_folder_writable(path: Path, *, size: int = 1) -> None:
    """Check that a folder can be written and replaced, by doing so with another folder next to it.

    Args:
        path: The folder, such as a checkpoint or a bundle.
        size: Bytes to write, to find out whether the disk has room for them.

    Raises:
        OutputError: The folder cannot be written.
    """
    check_name(path)
    with _folder(path):
        stand_in = _stand_in(path)
        try:
            for _ in range(2):  # the second time an existing folder is replaced
                with replacing_folder(stand_in) as temporary, (temporary / "rehearsal").open("wb") as file:
                    for start in range(0, size, 1 << 24):
                        file.write(bytes(min(1 << 24, size - start)))
                size = 1
        except OSError as error:
            raise unwritable(path, error) from error
        finally:
            shutil.rmtree(stand_in, ignore_errors=True)


def check_name(path: Path) -> None:
    """Check that the system accepts the name of a file.

    Raises:
        OutputError: It does not.
    """
    problem = name_problem(path.name)
    if problem is not None:
        raise OutputError(
            f"{path} cannot be written",
            received=problem,
            expected="a name that the system accepts",
            fix="Choose another name with -o.",
        )


def _stand_in(path: Path) -> Path:
    """Return a free path next to `path` whose name is as long in bytes, within what a test name needs."""
    token = f".{secrets.token_hex(4)}"
    return path.with_name(token + "x" * max(0, len(os.fsencode(path.name)) - len(token)))


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Create the missing folders above a path, and remove those that are still empty afterwards."""
    missing = []
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    if not folder.is_dir():
        raise unwritable(path, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()
