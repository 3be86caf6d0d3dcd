"""Send results, and try again later if a destination does not take them. Entries survive the process.

FOLDER/ID/entry.json     destination, and when it is tried again
FOLDER/ID/1.dcm ...      links or copies of the results
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from gcis_runtime.dicom_node.destinations import Destination, parse_destination
from gcis_runtime.dicom_node.inbox import hashed
from gcis_runtime.dicom_node.send import send_files
from gcis_runtime.errors import GcisError
from gcis_runtime.system.atomic_files import private_folder, remove_folder, remove_leftovers, replacing_folder
from gcis_runtime.system.json_files import write_json
from gcis_runtime.system.records import read_record
from gcis_runtime.text import counted, error_text

_ENTRY = "entry.json"
_VERSION = 1
_CLEAN_SECONDS = 3600.0
"""Longest time between two searches for entries that are too old."""

Send = Callable[[Sequence[Path], Destination], None]


class OutboxEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Files for a destination.

    Attributes:
        destination: Text of the destination.
        attempts: Number of times that it was tried.
        due: Time of the next attempt, seconds since 1970.
        error: Error of the last attempt.
    """

    schema: int = _VERSION
    destination: str
    attempts: int = 0
    due: float = 0.0
    error: str = ""


class Outbox:
    """A folder of results that are to be sent.

    Args:
        folder: The folder, which is created, readable for this user only.
        send: Sends files.
        delays: Seconds between attempts; after the last one, the entry is sent by the next process only.
        destinations: Where entries may be sent; those of an earlier process for other destinations are not.
            None permits every destination.
        keep_seconds: Age at which entries that were not sent are removed.
        log: Receives lines without anything of the patient.

    Raises:
        OutputError: The folder cannot be created.
    """

    def __init__(
        self,
        folder: Path,
        *,
        send: Send = send_files,
        delays: Sequence[float] = (5, 30, 120, 600, 3600, 3600, 3600),
        destinations: Sequence[Destination] | None = None,
        keep_seconds: float = 7 * 24 * 3600.0,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._folder, self._send, self._delays, self._log = folder, send, tuple(delays), log
        self._longest = max(self._delays, default=0.0)
        self._keep_seconds = keep_seconds
        self._permitted = None if destinations is None else {str(d) for d in destinations}
        self._kept_back: set[str] = set()
        self._changed = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        private_folder(folder)
        remove_leftovers(folder)
        self._retry_given_up()

    def add(self, files: Sequence[Path], destination: Destination, *, key: str) -> None:
        """Add files, which replace those of the same key for the same destination.

        Raises:
            OutputError: They cannot be copied.
        """
        with self._lock, replacing_folder(self._folder / hashed(key, str(destination))) as made:
            for number, file in enumerate(files, start=1):
                shutil.copyfile(file, made / f"{number}.dcm")
            write_json(made / _ENTRY, OutboxEntry(destination=str(destination)))
        self._changed.set()

    def start(self) -> None:
        """Start a thread that sends what is due."""
        self._thread = threading.Thread(target=self._run, name="gcis-send", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Stop the thread. Entries stay; an attempt that takes longer is repeated by the next process."""
        self._stopped = True
        self._changed.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def send_due(self, now: float) -> float | None:
        """Send everything that is due; return when the next attempt is due, None if there is none."""
        times = []
        for folder, entry in self._entries():
            if self._expired(folder, entry, now) or entry.attempts > len(self._delays):
                continue
            if self._permitted is not None and entry.destination not in self._permitted:
                self._keep_back(folder, entry)
            elif 0 < entry.due - now <= self._longest:  # later times are those of a clock that was set back
                times.append(entry.due)
            elif self._stopped:
                return None
            elif (later := self._attempt(folder, entry, now)) is not None:
                times.append(later)
        return min(times, default=None)

    def _entries(self) -> Iterator[tuple[Path, OutboxEntry]]:
        for folder in sorted(self._folder.iterdir()):
            if folder.name.startswith("."):  # it is being written or removed
                continue
            entry = read_record(folder / _ENTRY, OutboxEntry, newest=_VERSION).value
            if entry is not None:
                yield folder, entry

    def _retry_given_up(self) -> None:
        """Let entries that an earlier process gave up be sent again: its cause may be gone."""
        for folder, entry in self._entries():
            if entry.attempts > len(self._delays):
                write_json(folder / _ENTRY, msgspec.structs.replace(entry, attempts=0, due=0.0))

    def _expired(self, folder: Path, entry: OutboxEntry, now: float) -> bool:
        """Remove an entry that is too old; return whether it was. Attempts do not change its files."""
        with self._lock:
            added = max((f.stat().st_mtime for f in folder.glob("*.dcm")), default=now)
            if now - added < self._keep_seconds:
                return False
            _remove(folder)
        reason = f": {entry.error}" if entry.error else ""
        days = counted(round(self._keep_seconds / 86400), "day")
        self._log(f"removed results that were not sent to {entry.destination} for {days}{reason}")
        return True

    def _attempt(self, folder: Path, entry: OutboxEntry, now: float) -> float | None:
        """Send an entry and remove it; return when it is tried again, None if it is not."""
        files = sorted(folder.glob("*.dcm"))
        stamp = (folder / _ENTRY).stat()
        try:
            self._send(files, parse_destination(entry.destination))
        except (GcisError, OSError) as error:
            text = error_text(error)
        except Exception as error:  # of a library, because of an answer that it does not expect
            text = f"{entry.destination} did not take the results: {type(error).__name__}"
        else:
            with self._lock:
                if (folder / _ENTRY).stat().st_ino == stamp.st_ino:  # else replaced while it was sent
                    _remove(folder)
            self._log(f"sent {counted(len(files), 'file')} to {entry.destination}")
            return None
        attempts = entry.attempts + 1
        last = attempts > len(self._delays)
        due = now if last else now + self._delays[attempts - 1]
        with self._lock:
            write_json(
                folder / _ENTRY, msgspec.structs.replace(entry, attempts=attempts, due=due, error=text)
            )
        self._log(f"{text} ({'given up' if last else f'next attempt in {due - now:.0f} s'})")
        return None if last else due

    def _keep_back(self, folder: Path, entry: OutboxEntry) -> None:
        """Log once that an entry is not sent, because the operator removed its destination."""
        if folder.name not in self._kept_back:
            self._kept_back.add(folder.name)
            self._log(f"not sent to {entry.destination}, which is no destination any more: {folder}")

    def _run(self) -> None:
        while not self._stopped:
            self._changed.clear()
            try:
                due = self.send_due(time.time())
            except Exception as error:  # such as a full disk: the thread must go on
                text = error_text(error) if isinstance(error, GcisError | OSError) else type(error).__name__
                self._log(f"error in the outbox: {text}")
                due = time.time() + 60
            wait = _CLEAN_SECONDS if due is None else min(_CLEAN_SECONDS, due - time.time())
            self._changed.wait(max(0.0, wait))


def _remove(folder: Path) -> None:
    """Remove an entry; its new name is one of those that the next process removes if this one is killed."""
    remove_folder(folder, folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part"))
