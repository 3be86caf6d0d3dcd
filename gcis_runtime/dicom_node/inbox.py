"""Keep received series in a folder: one folder per series, whose names are hashes of UIDs.

    FOLDER/received/SERIES/.series.json    UIDs, sender, and how often the series was processed
    FOLDER/received/SERIES/INSTANCE.dcm
    FOLDER/results/SERIES/

A node that is killed finds at its next start which series were received but not finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gcis_runtime.dicom.files import MAX_FILES
from gcis_runtime.errors import OutputError
from gcis_runtime.system.atomic_files import private_folder, remove_leftovers, replacing
from gcis_runtime.system.json_files import write_json
from gcis_runtime.system.records import read_record

_RECORD = ".series.json"
_VERSION = 1


class SeriesRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A received series as it is stored in `.series.json`.

    Attributes:
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        caller: AE title of the node that sent the first instance.
        finished: Whether it was processed; False again after another instance.
        attempts: Number of times that processing it was started.
        error: Why processing it failed; empty if it did not.
    """

    schema: int = _VERSION
    study_uid: str
    series_uid: str
    caller: str
    finished: bool = False
    attempts: int = 0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class ReceivedSeries:
    """A complete series.

    Attributes:
        key: Hash of its UIDs, which names its folders.
        folder: Folder with its instances.
        results: Folder for its results, which may not exist.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        caller: AE title of the node that sent it.
        instances: Number of instances.
        digest: Hash of the content of all instances.
        saves: Number of writes to the series, by which `Inbox.finish` recognises later ones.
    """

    key: str
    folder: Path
    results: Path
    study_uid: str
    series_uid: str
    caller: str
    instances: int
    digest: str = ""
    saves: int = 0


class FullError(Exception):
    """A series, the folder or the disk has no room for another instance; the text gives the reason."""


def hashed(*uids: str) -> str:
    """Return the name of a file or folder for UIDs."""
    return hashlib.sha256("\n".join(uids).encode()).hexdigest()[:32]


class Inbox:
    """The folder of a node. `save` may be called from any thread, for one series also at the same time.

    Args:
        folder: The folder, which is created, readable for this user only.
        series_bytes: Largest size of a series.
        most_series: Largest number of series in the folder, finished ones included.
        reserve_bytes: Space that stays free.
        free_bytes: Returns the free space in a folder.

    Raises:
        OutputError: The folder cannot be created.
    """

    def __init__(
        self,
        folder: Path,
        *,
        series_bytes: int,
        most_series: int,
        reserve_bytes: int,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self._received, self._results = folder / "received", folder / "results"
        self._series_bytes, self._most_series = series_bytes, most_series
        self._reserve, self._free = reserve_bytes, free_bytes
        for path in (folder, self._received, self._results):
            private_folder(path)
        self._stored = len(list(self._received.iterdir()))
        self._known: dict[str, _Sizes] = {}
        self._lock = threading.Lock()

    def save(self, data: bytes, *, study_uid: str, series_uid: str, instance_uid: str, caller: str) -> str:
        """Write an instance atomically, and return the key of its series; the same instance is replaced.

        Raises:
            FullError: The series, the folder or the disk has no room.
            OutputError: The file cannot be written.
        """
        key, name = hashed(study_uid, series_uid), f"{hashed(instance_uid)}.dcm"
        folder = self._received / key
        with self._lock:
            if not folder.exists() and self._stored >= self._most_series:
                raise FullError(f"{self._most_series} series are stored, which is the limit")
            known = self._sizes(key)
            known.require_room(name, len(data), limit=self._series_bytes)
            known.saves += 1
            if self._free(self._received) - len(data) < self._reserve:
                raise FullError("the disk is full")
            record = self._record(key)
            if record is None:
                self._stored += not folder.exists()
                folder.mkdir(mode=0o700, exist_ok=True)
                record = SeriesRecord(study_uid=study_uid, series_uid=series_uid, caller=caller)
                write_json(folder / _RECORD, record)
            elif record.finished:
                self._update(key, finished=False, attempts=0, error="")
        with replacing(folder / name) as temporary:
            temporary.write_bytes(data)
        with self._lock:
            known.add(name, len(data))
        return key

    def unfinished(self) -> list[str]:
        """Return the keys of series that were not finished, after removing what killed processes left."""
        found = []
        for folder in self._received.iterdir():
            remove_leftovers(folder)
            record = self._record(folder.name)
            if record is not None and not record.finished:
                found.append(folder.name)
        return sorted(found)

    def start(self, key: str) -> tuple[ReceivedSeries, int]:
        """Return a series to process, and how often that was started, including this time."""
        folder = self._received / key
        with self._lock:
            saves = self._sizes(key).saves
            record = self._update(key, attempts=self._require(key).attempts + 1)
        digest, instances = _digest(folder)
        series = ReceivedSeries(
            key=key, folder=folder, results=self._results / key, study_uid=record.study_uid,
            series_uid=record.series_uid, caller=record.caller, instances=instances, digest=digest,
            saves=saves,
        )  # fmt: skip
        return series, record.attempts

    def postpone(self, key: str) -> None:
        """Record that the last start of a series does not count."""
        self._update(key, attempts=self._require(key).attempts - 1)

    def finish(self, series: ReceivedSeries, *, error: str = "") -> None:
        """Record that a series was processed or has failed, unless more of it arrived in the meantime.

        An instance that replaces another one counts as well, and the process did not end in either case.
        """
        with self._lock:
            known = self._known.get(series.key)
            if known is None or known.saves == series.saves:
                self._update(series.key, finished=True, error=error)
            else:
                self._update(series.key, attempts=0)

    def remove_finished(self, *, older_than: float) -> None:
        """Remove finished series and results whose record is older than a number of seconds."""
        limit = time.time() - older_than
        for folder in self._received.iterdir():
            with self._lock, contextlib.suppress(OSError):  # an instance may arrive now
                record = self._record(folder.name)
                if record is not None and record.finished and (folder / _RECORD).stat().st_mtime < limit:
                    self._known.pop(folder.name, None)
                    shutil.rmtree(self._results / folder.name, ignore_errors=True)
                    shutil.rmtree(folder, ignore_errors=True)
                    self._stored -= not folder.exists()

    def _sizes(self, key: str) -> _Sizes:
        """Return the sizes of a series; its folder is read once, not for each of its instances."""
        if key not in self._known:
            self._known[key] = _Sizes(self._received / key)
        return self._known[key]

    def _record(self, key: str) -> SeriesRecord | None:
        return read_record(self._received / key / _RECORD, SeriesRecord, newest=_VERSION).value

    def _require(self, key: str) -> SeriesRecord:
        record = self._record(key)
        if record is None:
            raise OutputError(f"{self._received / key / _RECORD} is missing or damaged")
        return record

    def _update(self, key: str, **changes: object) -> SeriesRecord:
        record = msgspec.structs.replace(self._require(key), **changes)
        write_json(self._received / key / _RECORD, record)
        return record


class _Sizes:
    """Sizes of the instances in the folder of a series, by file name."""

    def __init__(self, folder: Path) -> None:
        self.sizes: dict[str, int] = {}
        self.saves = 0
        with contextlib.suppress(FileNotFoundError):
            self.sizes = {f.name: f.stat().st_size for f in folder.iterdir() if f.suffix == ".dcm"}
        self._total = sum(self.sizes.values())

    def require_room(self, name: str, size: int, *, limit: int) -> None:
        """Raise FullError if an instance would make the series too large."""
        more = name not in self.sizes and len(self.sizes) >= MAX_FILES
        if more or self._total - self.sizes.get(name, 0) + size > limit:
            raise FullError("the series is larger than allowed")

    def add(self, name: str, size: int) -> None:
        """Record an instance."""
        self._total += size - self.sizes.get(name, 0)
        self.sizes[name] = size
        self.saves += 1


def _digest(folder: Path) -> tuple[str, int]:
    """Return a hash of the content of all instances of a series, and their number."""
    files = sorted(folder.glob("*.dcm"))
    found = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            found.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest(), len(files)
