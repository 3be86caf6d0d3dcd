"""Cache compiled engines in a folder that only the current user can write to.

Loading a compiled model executes code. A cache entry is therefore used only if its folder belongs to this
user and has mode 0700, and only if its SHA-256 hash equals the hash that was recorded when the entry was
stored. The hash detects truncated and damaged files; the permissions keep other users out. If no such folder
can be created, nothing is cached, and no error is raised.

Several processes can share a cache: a data file is named after its hash, and an entry is added by one rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gcis_runtime.errors import OutputError
from gcis_runtime.system.home import home_folder

LIMIT = 4 << 30
"""Largest size of a cache in bytes; the least recently used entries are removed first."""

_NOTE = ".json"


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Key and hash of a cached file, stored as JSON next to it."""

    key: dict[str, str]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class PrivateCache:
    """A folder of cached files, opened by `open_cache`.

    Attributes:
        folder: Path of the folder.
        limit: Largest size in bytes.
    """

    folder: Path
    limit: int = LIMIT

    def find(self, kind: str, key: Mapping[str, str]) -> Path | None:
        """Return the file that was stored under a key after verifying it; None if it is missing or damaged.

        Args:
            kind: Kind of file, such as `"openvino"`; part of the file name.
            key: Everything that determines the content.
        """
        note = self._note(kind, key)
        try:
            entry = msgspec.json.decode(note.read_bytes(), type=_Entry)
            data = self._data(kind, entry.sha256)
            with data.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if entry.key != dict(key) or digest != entry.sha256:
                note.unlink(missing_ok=True)
                return None
            os.utime(note)  # mark as recently used
        except (OSError, msgspec.DecodeError):
            return None
        return data

    def store(self, kind: str, key: Mapping[str, str], write: Callable[[Path], object]) -> Path | None:
        """Store a file under a key and return its path; None if it cannot be written.

        Args:
            kind: Kind of file, such as `"openvino"`.
            key: Everything that determines the content.
            write: Writes the content to the path that it receives.
        """
        with contextlib.suppress(OSError), self._temporary() as part:
            write(part)
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            data = self._data(kind, digest)
            part.replace(data)
            with self._temporary() as note:
                note.write_bytes(msgspec.json.encode(_Entry(key=dict(key), sha256=digest)))
                note.replace(self._note(kind, key))
            self._prune(keep=data)
            return data
        return None

    def _note(self, kind: str, key: Mapping[str, str]) -> Path:
        digest = hashlib.sha256(msgspec.json.encode(dict(key), order="sorted")).hexdigest()
        return self.folder / f"{kind}-{digest[:24]}{_NOTE}"

    def _data(self, kind: str, digest: str) -> Path:
        return self.folder / f"{kind}-{digest[:24]}.bin"

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        """Yield a temporary file in this folder, and remove it afterwards unless it was renamed."""
        handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=self.folder)
        os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _prune(self, *, keep: Path) -> None:
        """Remove unreferenced and then least recently used data files until the cache is within its limit."""
        named: dict[Path, float] = {}
        for note in self.folder.glob(f"*{_NOTE}"):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                entry = msgspec.json.decode(note.read_bytes(), type=_Entry)
                data = self._data(note.name.rpartition("-")[0], entry.sha256)
                named[data] = max(note.stat().st_mtime, named.get(data, 0.0))
        files = sorted(self.folder.glob("*.bin"), key=lambda file: named.get(file, 0.0))
        size = sum(file.stat().st_size for file in files)
        for file in files:
            if size <= self.limit:
                break
            if file != keep:
                size -= file.stat().st_size
                file.unlink(missing_ok=True)


def open_cache(folder: Path | None = None) -> PrivateCache | None:
    """Open a cache folder, which is created if missing; return None if it cannot be private to this user.

    Args:
        folder: The folder; None means `$GCIS_HOME/cache`.
    """
    try:
        folder = home_folder() / "cache" if folder is None else folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or not _ours(found):
            return None
        if found.st_mode & 0o077:
            folder.chmod(0o700)
    except (OutputError, OSError):
        return None
    return PrivateCache(folder=folder)


def open_cache_beside(bundle: Path) -> PrivateCache | None:
    """Open the cache folder `BUNDLE.cache` next to a bundle, or else the one in `$GCIS_HOME`.

    Args:
        bundle: Folder of the bundle. The cache is next to it only if this user alone can write to the parent
            folder.
    """
    folder = bundle.resolve()
    try:
        above = folder.parent.stat()
    except OSError:
        return open_cache()
    if _ours(above) and not above.st_mode & 0o022 and os.access(folder.parent, os.W_OK):
        return open_cache(folder.with_name(f"{folder.name}.cache")) or open_cache()
    return open_cache()


def _ours(found: os.stat_result) -> bool:
    """Return whether a folder belongs to this user; always True on Windows, where profiles are private."""
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
