"""Write to file systems that lack something, with the best guarantee that they allow and one note.

Network and FUSE file systems may have no locks (NFS, Lustre), no `fsync`, no modes (SMB, S3, FAT) or no
rename (S3). What is missing is reported as a `FileSystemWarning`, and the output is written without it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import warnings
from pathlib import Path

from gcis_runtime.platforms import flush_to_disk

_MISSING = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOTTY}
_NO_LOCKS = _MISSING | {errno.ENOLCK}
_NO_MODES = _MISSING | {errno.EPERM, errno.EACCES, errno.EROFS}
_NO_RENAME = _MISSING | {errno.EPERM, errno.EXDEV}


class FileSystemWarning(UserWarning):
    """A file system lacks something, so that an output has a weaker guarantee."""


def note(folder: Path, missing: str, consequence: str) -> None:
    """Warn once per folder that its file system lacks something."""
    text = f"the file system of {folder} has no {missing}: {consequence}"
    warnings.warn(text, FileSystemWarning, stacklevel=2)


def locks_are_missing(error: OSError, folder: Path, consequence: str) -> bool:
    """Return whether an error of `try_lock` means that there are no locks, with a note if so."""
    if error.errno not in _NO_LOCKS:
        return False
    note(folder, "locks", consequence)
    return True


def flush(path: Path) -> None:
    """Flush a file to disk before it gets its name, so that a power failure leaves no empty file.

    Raises:
        OSError: The disk is full or failed.
    """
    try:
        flush_to_disk(path)
    except OSError as error:
        if error.errno not in _MISSING:
            raise
        note(path.parent, "fsync", "a power failure may damage files that were just written")


def set_mode(path: Path, mode: int) -> None:
    """Set the mode of a file or folder, where there are modes."""
    try:
        path.chmod(mode)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise
        note(path.parent, "modes that this user can set", "files keep the mode of the file system")


def rename(one: Path, two: Path) -> None:
    """Rename a file, or copy it where files cannot be renamed.

    Raises:
        OSError: The file can be neither renamed nor copied.
    """
    try:
        one.replace(two)
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
        new = not two.exists()
        try:
            shutil.copyfile(one, two)
        except OSError:
            if new:
                two.unlink(missing_ok=True)
            raise
        note(two.parent, "rename", "a process that is killed may leave an incomplete file")


def rename_folder(one: Path, two: Path) -> None:
    """Rename a folder to a free name, or copy it where folders cannot be renamed.

    Raises:
        OSError: The folder can be neither renamed nor copied.
    """
    try:
        one.replace(two)
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
        try:
            copy_files(one, two)
        except OSError:
            shutil.rmtree(two, ignore_errors=True)
            raise
        note(two.parent, "rename", "a process that is killed may leave an incomplete folder")


def copy_files(one: Path, two: Path) -> None:
    """Copy the files of a folder into another, in the order in which they were written.

    The file that completes a folder (`config.json`, `manifest.json`) is thus copied last.
    """
    two.mkdir(exist_ok=True)
    for folder in sorted(part for part in one.rglob("*") if part.is_dir()):
        (two / folder.relative_to(one)).mkdir(exist_ok=True)
    files = [part for part in one.rglob("*") if not part.is_dir()]
    for file in sorted(files, key=lambda part: part.stat().st_mtime_ns):
        shutil.copyfile(file, two / file.relative_to(one))
        with contextlib.suppress(OSError):
            flush_to_disk(two / file.relative_to(one))


def short_name(name: str, extra: int) -> str:
    """Return the start of a name that leaves room for `extra` more bytes in the 255 bytes of a file name."""
    return os.fsencode(name)[: 255 - extra].decode(errors="ignore")
