"""List the files of a study: in folders, as single files, and in zip archives, without unpacking to disk."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gcis_runtime.errors import ImageError
from gcis_runtime.images.dicom_content import files_below
from gcis_runtime.system.memory import bytes_text

MAX_FILES = 200_000
_MAX_MEMBER = 4 << 30
_MAX_TOTAL = 64 << 30
_MAX_RATIO = 200
"""Largest compression ratio of an archive member of more than a megabyte; CT reaches about 10."""


@dataclass(frozen=True, kw_only=True)
class DicomFile:
    """A file of a study.

    Names of files may contain those of patients: messages use `number` instead.

    Attributes:
        path: The file, or the zip archive that contains it.
        member: Name in the archive; empty for a file.
        size: Size in bytes, uncompressed.
        modified_ns: Modification time of `path`.
        number: Position in the list of files, from 1.
    """

    path: Path
    member: str
    size: int
    modified_ns: int
    number: int

    def open(self) -> IO[bytes]:
        """Open the file for reading; members of archives are decompressed while they are read."""
        if not self.member:
            return self.path.open("rb")
        with zipfile.ZipFile(self.path) as archive:
            return io.BytesIO(_bounded(archive, self.member, self.size))

    def head(self, count: int) -> bytes:
        """Return the first bytes of the file."""
        if not self.member:
            with self.path.open("rb") as file:
                return file.read(count)
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as member:
            return member.read(count)


def list_files(paths: Sequence[Path]) -> tuple[DicomFile, ...]:
    """List all files below the paths of a study.

    Args:
        paths: Folders (with their subfolders), files and zip archives.

    Raises:
        ImageError: A path does not exist, an archive is damaged, encrypted or implausibly large, or there are
            too many files.
    """
    found: list[DicomFile] = []
    for path, member, size, modified in _all(paths):
        if len(found) == MAX_FILES:
            raise ImageError(
                "the study has too many files",
                received=f"more than {MAX_FILES}",
                fix="Pass the folder of one study or series.",
            )
        found.append(
            DicomFile(path=path, member=member, size=size, modified_ns=modified, number=len(found) + 1)
        )
    return tuple(found)


def _all(paths: Sequence[Path]) -> Iterator[tuple[Path, str, int, int]]:
    for path in paths:
        if path.is_dir():
            for file in files_below(path):
                status = file.stat()
                yield file, "", status.st_size, status.st_mtime_ns
        elif not path.is_file():
            raise ImageError(f"{path} does not exist", expected="a DICOM file, folder or zip archive")
        elif zipfile.is_zipfile(path):
            yield from _members(path)
        else:
            status = path.stat()
            yield path, "", status.st_size, status.st_mtime_ns


def _members(path: Path) -> Iterator[tuple[Path, str, int, int]]:
    """Yield the members of an archive after checking the sizes that its directory states."""
    modified = path.stat().st_mtime_ns
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ImageError(f"{path} cannot be read", received=str(error), expected="a zip archive") from error
    if any(m.flag_bits & 1 for m in members):
        raise ImageError(f"{path} is encrypted", fix="Decrypt it first.")
    total = sum(m.file_size for m in members)
    worst = max(
        (m.file_size / max(m.compress_size, 1) for m in members if m.file_size > 1 << 20), default=0.0
    )
    largest = max((m.file_size for m in members), default=0)
    if len(members) > MAX_FILES or total > _MAX_TOTAL or largest > _MAX_MEMBER or worst > _MAX_RATIO:
        raise ImageError(
            f"{path} has an implausible size",
            received=f"{len(members)} files of {bytes_text(total)}, the largest {bytes_text(largest)}, "
            f"compressed up to {worst:.0f} times",
            expected=f"at most {MAX_FILES} files of {bytes_text(_MAX_TOTAL)}, each at most "
            f"{bytes_text(_MAX_MEMBER)} and compressed at most {_MAX_RATIO} times",
            fix="Unpack it, and pass the folder.",
        )
    for member in sorted(members, key=lambda m: m.filename):
        yield path, member.filename, member.file_size, modified


def _bounded(archive: zipfile.ZipFile, member: str, size: int) -> bytes:
    """Return a member; one that is larger than its directory entry states is an error."""
    with archive.open(member) as file:
        data = file.read(size + 1)
    if len(data) != size:
        raise zipfile.BadZipFile("a member has another size than its directory entry")
    return data


def study_stamp(files: Sequence[DicomFile]) -> tuple[int, int]:
    """Return the total size in bytes and the latest modification time in ns of files."""
    return sum(file.size for file in files), max((file.modified_ns for file in files), default=0)


def load_pydicom() -> Any:
    """Import pydicom, without its warnings, which quote values of the file: they may name a patient.

    Raises:
        ImageError: It is not installed.
    """
    try:
        import pydicom  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise ImageError(
            "DICOM files need pydicom", received=str(error), fix="pip install 'gcis[dicom]'"
        ) from error
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    return pydicom
