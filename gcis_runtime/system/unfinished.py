"""List the temporary files and folders of this process, which is needed to end it without unwinding."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

_PATHS: dict[Path, None] = {}
"""Mutable, because signals concern the whole process. Single operations on a dict are atomic in CPython."""


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """List a temporary file or folder while the block runs."""
    _PATHS[path] = None
    try:
        yield
    finally:
        _PATHS.pop(path, None)


def remove_unfinished() -> None:
    """Remove the listed files and folders; errors are ignored. Call it only before the process ends."""
    for path in list(_PATHS):
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
