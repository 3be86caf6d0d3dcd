"""Cache compiled engines in a folder that only the current user can write to.

Loading a compiled model executes code. A cache entry is therefore used only if folder and files belong to
this user and nobody else can write to them, if the file's SHA-256 hash is the recorded one, and if the record
carries an authentication code that was computed with a key of this user (`system/secret_key.py`). The hash
detects damaged files; permissions and key keep other users out, also if the folder was writable by them
earlier. If no such folder can be created, nothing is cached, and no error is raised.

Several processes can share a cache: a data file is named after its hash, and an entry is added by one rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import mmap
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gcis_runtime.errors import OutputError
from gcis_runtime.system.home import home_folder
from gcis_runtime.system.own_files import open_plain
from gcis_runtime.system.records import read_record
from gcis_runtime.system.secret_key import secret_key

LIMIT = 4 << 30
"""Largest size of a cache in bytes; the least recently used entries are removed first."""

_NOTE = ".json"
_PACKAGE = Path(__file__).resolve().parents[1]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Key and hash of a cached file, stored as JSON next to it, with their authentication code."""

    key: dict[str, str]
    sha256: str
    code: str


@dataclass(frozen=True, kw_only=True)
class CachedFile:
    """A verified cache entry.

    Attributes:
        mapped: The content that was verified, mapped copy-on-write: it is not read into memory at once, and
            never written back.
    """

    mapped: mmap.mmap

    def read_bytes(self) -> bytes:
        """Return the content."""
        return bytes(self.mapped)


@dataclass(frozen=True, kw_only=True)
class PrivateCache:
    """A folder of cached files, opened by `open_cache`.

    Attributes:
        folder: Path of the folder.
        limit: Largest size in bytes.
        secret: Key of the authentication codes; None for the key of this user, which is created when the
            first entry is stored.
    """

    folder: Path
    limit: int = LIMIT
    secret: bytes | None = None

    def find(self, kind: str, key: Mapping[str, str]) -> CachedFile | None:
        """Return the file that was stored under a key after verifying it; None if it is missing or damaged.

        Args:
            kind: Kind of file, such as `"openvino"`; part of the file name.
            key: Everything that determines the content.
        """
        note = self._note(kind, key)
        entry = self._read(note)
        if entry is None:
            return None
        secret = self.secret or secret_key(create=False)
        code = "" if secret is None else _code(secret, kind, key, entry.sha256)
        valid = (
            bool(code) and entry.key == dict(key) and hmac.compare_digest(entry.code.encode(), code.encode())
        )
        with contextlib.suppress(OSError, ValueError):  # an empty file cannot be mapped
            found = _mapped(self._data(kind, entry.sha256)) if valid else None
            if found is not None and hashlib.sha256(found).hexdigest() == entry.sha256:
                os.utime(note, follow_symlinks=False)  # mark as recently used
                return CachedFile(mapped=found)
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)
        return None

    def store(self, kind: str, key: Mapping[str, str], write: Callable[[Path], object]) -> Path | None:
        """Store a file under a key and return its path; None if it cannot be written.

        Args:
            kind: Kind of file, such as `"openvino"`.
            key: Everything that determines the content.
            write: Writes the content to the path that it receives.
        """
        secret = self.secret or secret_key(create=True)
        if secret is None:
            return None
        with contextlib.suppress(OSError), self._temporary() as part:
            write(part)
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            data = self._data(kind, digest)
            part.replace(data)
            entry = _Entry(key=dict(key), sha256=digest, code=_code(secret, kind, key, digest))
            with self._temporary() as note:
                note.write_bytes(msgspec.json.encode(entry))
                note.replace(self._note(kind, key))
            self._prune(keep=data)
            return data
        return None

    def _read(self, note: Path) -> _Entry | None:
        """Return a record; None if it is missing, damaged, of an earlier version, or another user's."""
        with contextlib.suppress(OSError):
            if _ours_alone(note.lstat()):
                return read_record(note, _Entry).value
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
            entry = self._read(note)
            if entry is None:  # of an earlier version, or damaged: it would be reported at every start
                with contextlib.suppress(OSError):
                    note.unlink()
            elif len(entry.sha256) == 64 and entry.sha256.isalnum():
                data = self._data(note.name.rpartition("-")[0], entry.sha256)
                named[data] = max(note.lstat().st_mtime, named.get(data, 0.0))
        files = sorted(self.folder.glob("*.bin"), key=lambda file: named.get(file, 0.0))
        size = sum(file.lstat().st_size for file in files)
        for file in files:
            if size <= self.limit:
                break
            if file != keep:
                size -= file.lstat().st_size
                file.unlink(missing_ok=True)


def open_cache(folder: Path | None = None) -> PrivateCache | None:
    """Open a cache folder, which is created if missing; return None if it cannot be private to this user.

    A folder that others can write to is not used, because entries may have been planted in it.

    Args:
        folder: The folder; None means `$GCIS_HOME/cache`.
    """
    try:
        folder = home_folder() / "cache" if folder is None else folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or not _ours_alone(found):
            return None
        if found.st_mode & 0o077:
            folder.chmod(0o700)
    except (OutputError, OSError):  # OutputError: this user has no home folder
        return None
    return PrivateCache(folder=folder)


def open_cache_beside(bundle: Path) -> PrivateCache | None:
    """Open the cache folder `BUNDLE.cache` next to a bundle, or else the one in `$GCIS_HOME`.

    Args:
        bundle: Folder of the bundle. The cache is next to it only if this user alone can write to the parent
            folder. The demo bundle is part of the installed package, in which nothing is stored.
    """
    folder = bundle.resolve()
    if folder.is_relative_to(_PACKAGE):
        return open_cache()
    try:
        above = folder.parent.stat()
    except OSError:
        return open_cache()
    if _ours_alone(above) and os.access(folder.parent, os.W_OK):
        return open_cache(folder.with_name(f"{folder.name}.cache")) or open_cache()
    return open_cache()


def _code(secret: bytes, kind: str, key: Mapping[str, str], digest: str) -> str:
    """Return the authentication code of an entry."""
    message = msgspec.json.encode([kind, sorted(key.items()), digest])
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def _mapped(file: Path) -> mmap.mmap | None:
    """Return the content of a file; None if it is another user's or others can write to it."""
    handle = open_plain(file)
    try:
        if not _ours_alone(os.fstat(handle)):
            return None
        return mmap.mmap(handle, 0, access=mmap.ACCESS_COPY)
    finally:
        os.close(handle)


def _ours_alone(found: os.stat_result) -> bool:
    """Return whether this user alone can write; always True on Windows, where profiles are private."""
    return not hasattr(os, "geteuid") or (found.st_uid == os.geteuid() and not found.st_mode & 0o022)
