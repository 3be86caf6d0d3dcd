"""Locate the folder in which gCIS keeps data for the current user."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from gcis_runtime.errors import OutputError
from gcis_runtime.platforms import user_id


def home_folder() -> Path:
    """Return the folder of this user's bundles and caches: `$GCIS_HOME`, by default `~/.gcis`.

    If the user has no home folder (an arbitrary user id in a container), it is a private folder in the
    folder for temporary files.

    Raises:
        OutputError: There is no home folder, and the folder for temporary files has no private one.
    """
    home = os.environ.get("GCIS_HOME")
    if home:
        return Path(home)
    try:
        return Path.home() / ".gcis"
    except RuntimeError:
        return _temporary_home()


def name_home() -> None:
    """Set `HOME` if the system knows no home folder of this user.

    Other packages would create a folder that is named `~` in the current folder.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(_temporary_home())


def _temporary_home() -> Path:
    """Create the private folder in the folder for temporary files, which all users can write to."""
    user = user_id()
    folder = Path(tempfile.gettempdir()) / f"gcis-{user}"
    problem = "a folder, link or file of somebody else"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o077:
            return folder
    except OSError as error:
        problem = error.strerror or str(error)
    raise OutputError(
        f"this user has no home, and {folder} cannot be used instead",
        received=problem,
        expected="a folder that only this user can write to",
        fix="Set GCIS_HOME to such a folder.",
    )
