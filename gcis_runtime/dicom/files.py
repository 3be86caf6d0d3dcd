"""List the files of a study: in folders, as single files, and in zip archives, without unpacking to disk."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gcis_runtime.errors import ImageError
from gcis_runtime.images.dicom_content import files_below
from gcis_runtime.images.zip_members import METHODS, list_members, read_member
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
        size: Size in bytes, uncompressed.
        number: Position in the list of files, from 1.
        entry: Directory entry in the archive; None for a file.
    """

    path: Path
    size: int
    number: int
    entry: zipfile.ZipInfo | None = field(default=None, compare=False, repr=False)

    def open(self) -> IO[bytes]:
        """Open the file for reading; members of archives are decompressed at once."""
        if self.entry is None:
            return self.path.open("rb")
        return io.BytesIO(read_member(self.path, self.entry))


def list_files(paths: Sequence[Path]) -> tuple[DicomFile, ...]:
    """List all files below the paths of a study.

    Args:
        paths: Folders (with their subfolders), files and zip archives.

    Raises:
        ImageError: A path does not exist, an archive is damaged, encrypted or implausibly large, or there are
            too many files.
    """
    found: list[DicomFile] = []
    for path, size, entry in _all(paths):
        if len(found) == MAX_FILES:
            raise ImageError(
                "the study has too many files",
                received=f"more than {MAX_FILES}",
                fix="Pass the folder of one study or series.",
            )
        found.append(DicomFile(path=path, size=size, number=len(found) + 1, entry=entry))
    return tuple(found)


def _all(paths: Sequence[Path]) -> Iterator[tuple[Path, int, zipfile.ZipInfo | None]]:
    for path in paths:
        if path.is_dir():
            for file in files_below(path):
                yield file, file.stat().st_size, None
        elif not path.is_file():
            raise ImageError(f"{path} does not exist", expected="a DICOM file, folder or zip archive")
        elif zipfile.is_zipfile(path):
            yield from _members(path)
        else:
            yield path, path.stat().st_size, None


def _members(path: Path) -> Iterator[tuple[Path, int, zipfile.ZipInfo | None]]:
    """Yield the members of an archive after checking the sizes that its directory states."""
    try:
        members = list_members(path)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ImageError(f"{path} cannot be read", received=str(error), expected="a zip archive") from error
    if any(m.flag_bits & 1 for m in members):
        raise ImageError(f"{path} is encrypted", fix="Decrypt it first.")
    if any(m.compress_type not in METHODS for m in members):
        raise ImageError(
            f"{path} is compressed by a method that is not supported",
            expected="stored, deflate or bzip2",
            fix="Unpack it, and pass the folder.",
        )
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
        yield path, member.file_size, member


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
