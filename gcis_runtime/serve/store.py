"""Keep jobs in a folder: one folder per job with its record, its image and its results.

    FOLDER/incoming/ID/            an upload that is not accepted yet; removed at the next start
    FOLDER/jobs/ID/job.json        the record, replaced atomically
    FOLDER/jobs/ID/input/          the image
    FOLDER/jobs/ID/results/        what `write_case` writes; the report is written last

A job is accepted by one rename from `incoming` to `jobs`, after all its files were flushed to disk.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import shutil
from pathlib import Path

from gcis_runtime import platforms
from gcis_runtime.serve.job import RECORD_VERSION, JobRecord
from gcis_runtime.system.atomic_files import private_folder, remove_folder, remove_leftovers, unwritable
from gcis_runtime.system.json_files import write_json
from gcis_runtime.system.records import read_record
from gcis_runtime.system.weak_file_systems import flush

_LOG = logging.getLogger(__name__)
RECORD, INPUT, RESULTS = "job.json", "input", "results"
_ID = re.compile(r"[0-9a-f]{32}")


def is_job_id(text: str) -> bool:
    """Return whether a text has the form of a job's identifier."""
    return _ID.fullmatch(text) is not None


class JobStore:
    """The folder of a service. Its caller holds the lock of the folder.

    Args:
        folder: The folder, which is created, readable for this user only.

    Raises:
        OutputError: The folder cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._jobs, self._incoming = folder / "jobs", folder / "incoming"
        for path in (folder, self._jobs, self._incoming):
            private_folder(path)

    def job_folder(self, job: str) -> Path:
        """Return the folder of an accepted job."""
        if not is_job_id(job):
            raise ValueError(f"{job!r} is not the identifier of a job")
        return self._jobs / job

    def results(self, job: str) -> Path:
        """Return the folder with the results of a job."""
        return self.job_folder(job) / RESULTS

    def new_incoming(self) -> Path:
        """Create a folder for an upload; its name is the identifier of the job that it may become."""
        folder = self._incoming / secrets.token_hex(16)
        (folder / INPUT).mkdir(parents=True, mode=0o700)
        return folder

    def discard(self, incoming: Path) -> None:
        """Remove an upload that was not accepted."""
        shutil.rmtree(incoming, ignore_errors=True)

    def accept(self, incoming: Path, record: JobRecord) -> None:
        """Make an upload a job, in one step that survives a crash of the process and of the machine.

        Raises:
            OutputError: The disk is full, or the folder cannot be written.
        """
        try:
            for path in sorted(incoming.rglob("*"), reverse=True):
                _flush_folder(path) if path.is_dir() else flush(path)
            (incoming / RESULTS).mkdir(exist_ok=True)
            write_json(incoming / RECORD, record)
            _flush_folder(incoming)
            incoming.replace(self.job_folder(record.id))
            _flush_folder(self._jobs)
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def save(self, record: JobRecord) -> None:
        """Replace the record of a job.

        Raises:
            OutputError: The record cannot be written.
        """
        write_json(self.job_folder(record.id) / RECORD, record)

    def remove(self, job: str) -> None:
        """Remove a job with its image and its results.

        The folder is renamed first, so that a job that is half removed is not found at the next start.
        """
        remove_folder(self.job_folder(job), self._incoming / job)

    def clear_data(self, job: str) -> None:
        """Remove the image and the results of a job, and keep its record."""
        folder = self.job_folder(job)
        for name in (INPUT, RESULTS):
            shutil.rmtree(folder / name, ignore_errors=True)

    def load(self) -> list[JobRecord]:
        """Return the records of all jobs by time of acceptance, after removing what crashes left.

        A job whose record is damaged is left out with a message, so that the others go on. Its folder stays.

        Raises:
            OutputError: A newer version wrote a record.
        """
        for path in self._incoming.iterdir():
            shutil.rmtree(path, ignore_errors=True)
        found = []
        for folder in self._jobs.iterdir():
            if not is_job_id(folder.name):
                continue
            remove_leftovers(folder)
            remove_leftovers(folder / RESULTS)
            record = read_record(folder / RECORD, JobRecord, newest=RECORD_VERSION).value
            if record is None or record.id != folder.name:
                _LOG.error(
                    "job %s: its record is missing or damaged; %s is left as it is", folder.name, folder
                )
                continue
            found.append(record)
        return sorted(found, key=lambda record: record.created)

    def size(self, job: str) -> int:
        """Return the bytes of all files of a job."""
        total = 0
        for path in self.job_folder(job).rglob("*"):
            with contextlib.suppress(OSError):
                total += path.lstat().st_size
        return total


def _flush_folder(folder: Path) -> None:
    """Flush the names in a folder to disk; Windows does not need it."""
    if not platforms.WINDOWS:
        flush(folder)


def private_texts(folder: Path, source: str) -> tuple[tuple[str, str], ...]:
    """Return the texts in messages about a job that clients must not see, and their replacements.

    Args:
        folder: Folder of the job or its upload.
        source: Path of the image, relative to it or absolute.
    """
    image = (source, "the image") if Path(source).is_absolute() else (source, Path(source).name)
    return (f"{folder / INPUT}/", ""), (f"{folder}/", ""), (str(folder), "the job"), image
