"""Keep a random key per user, with which cache entries are authenticated."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from gcis_runtime.errors import OutputError
from gcis_runtime.system.home import home_folder
from gcis_runtime.system.own_files import create_new, open_plain

_BYTES = 32
_FILE = "cache.key"


def secret_key(*, create: bool) -> bytes | None:
    """Return this user's key; None if it does not exist or cannot be kept private.

    The key is in `$GCIS_HOME/cache/keys`, a folder with mode 0700. A folder or file that belongs to another
    user, that others can write to or that is a link is not used.

    Args:
        create: Create a key if there is none.
    """
    try:
        folder = home_folder() / "cache" / "keys"
        if create:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _private(folder.lstat(), folder=True):
            return None
        file = folder / _FILE
        if create:
            with contextlib.suppress(FileExistsError):
                _create(file)
        handle = open_plain(file)
        with os.fdopen(handle, "rb") as opened:
            private = _private(os.fstat(handle), folder=False)
            found = opened.read(_BYTES + 1)
    except (OutputError, OSError):  # OutputError: this user has no home folder
        return None
    return found if private and len(found) == _BYTES else None


def _create(file: Path) -> None:
    """Create the key file in one step, so that no other process reads half a key."""
    part = file.with_name(f".{secrets.token_hex(8)}.part")
    handle = create_new(part)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(secrets.token_bytes(_BYTES))
        if not file.exists():
            try:
                os.link(part, file)  # fails if the file exists, unlike a rename
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _private(found: os.stat_result, *, folder: bool) -> bool:
    """Return whether only this user can read and write."""
    kind = stat.S_ISDIR if folder else stat.S_ISREG
    if not kind(found.st_mode):
        return False
    return not hasattr(os, "geteuid") or (found.st_uid == os.geteuid() and not found.st_mode & 0o077)
