"""Compiled engines kept for the next start, where only this user can write.

Loading a compiled model is running code. A cache entry is therefore used only from a folder that belongs to
this user and that nobody else can write (mode 0700), and only when its hash is the one that was noted when it
was stored: that finds truncation and bit rot, while the folder's owner keeps strangers out. Where no such
folder can be had there is no cache, never an error.

Two processes may share a cache: data lies under its own hash, and an entry appears by one rename.
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

from gcis_runtime.system.home import home_folder

LIMIT = 4 << 30
"""Bytes that a cache may hold; what was used least recently goes first."""

_NOTE = ".json"


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The note beside cached data: what it is, and its hash."""

    key: dict[str, str]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class PrivateCache:
    """A folder of cached files. Made by `open_cache`.

    Attributes:
        folder: Where it lies.
        limit: Bytes that it may hold.
    """

    folder: Path
    limit: int = LIMIT

    def find(self, kind: str, key: Mapping[str, str]) -> Path | None:
        """Return the file that was stored under a key, verified; None when there is none or it was damaged.

        Args:
            kind: What it is, such as `"openvino"`; part of the file name.
            key: All that decides its content.
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
            os.utime(note)  # used now: pruned last
        except (OSError, msgspec.DecodeError):
            return None
        return data

    def store(self, kind: str, key: Mapping[str, str], write: Callable[[Path], object]) -> Path | None:
        """Keep what `write` puts into a file; None where the disk refuses.

        Args:
            kind: What it is.
            key: All that decides its content.
            write: Writes the file that it is given.
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
        """Give a temporary file of this folder that is gone afterwards, unless it was renamed."""
        handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=self.folder)
        os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _prune(self, *, keep: Path) -> None:
        """Remove the entries used longest ago, and data that no entry names, until the limit holds."""
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
    """Open a cache folder, made when missing; None where none can be private to this user.

    Args:
        folder: The folder; None takes `$GCIS_HOME/cache`.
    """
    folder = home_folder() / "cache" if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or not _ours(found):
            return None
        if found.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError:
        return None
    return PrivateCache(folder=folder)


def open_cache_beside(bundle: Path) -> PrivateCache | None:
    """Open the cache folder `BUNDLE.cache` beside a bundle, or the one in `$GCIS_HOME` where that is not
    possible.

    Args:
        bundle: The bundle's folder. Its neighbour is used only where this user alone can write beside it.
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
    """Tell whether a folder belongs to this user; Windows has no owners here, and private profiles."""
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
