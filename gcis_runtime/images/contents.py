"""Recognise files that are not images by their first bytes, and name them in the error."""

from __future__ import annotations

from pathlib import Path

from gcis_runtime.errors import ImageError
from gcis_runtime.images.dicom_content import holds_dicom, is_dicom

HEAD = 1024
"""Bytes from which a kind of file is recognised."""
_DICOM_FIX = (
    "`gcis-run` reads DICOM studies (extra dicom), and so does `gcis_runtime.read_dicom`. Other commands "
    "need NIfTI: `dcm2niix -z y -o OUT FOLDER`."
)
_FETCH = "Download the file itself"
_ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\xfd7zXZ\x00": "xz data",
    b"\x28\xb5\x2f\xfd": "zstd data",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89HDF": "an HDF5 file",
}


def refuse_known(path: Path, head: bytes) -> None:
    """Raise an error if the first bytes are known not to be those of an image in a supported format.

    Recognises empty files, git-LFS and git-annex pointers, HTML and XML pages, DICOM, archives and pictures.

    Args:
        path: The file, for the message.
        head: Its first bytes, uncompressed; up to `HEAD` are used.

    Raises:
        ImageError: One of these was found; the message names it.
    """
    if not head:
        raise ImageError(f"{path} is empty", received="0 bytes", expected="an image", fix=f"{_FETCH} again.")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        raise _known(path, "a git-LFS pointer, not the file", "Run `git lfs pull`.")
    if b"annex/objects/" in text and len(head) < HEAD and b"\x00" not in head:
        raise _known(path, "a git-annex pointer, not the file", "Run `git annex get FILE`.")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        raise _known(path, "an HTML or XML page, such as an error page of a download", f"{_FETCH} again.")
    if is_dicom(head):
        raise _known(path, "a DICOM file", _DICOM_FIX)
    for magic, name in _ARCHIVES.items():
        if head.startswith(magic):
            raise _known(path, name, "Unpack or convert it first.")


def refuse_folder(path: Path) -> None:
    """Raise the error for a folder that was passed as an image, naming a DICOM series if it is one.

    Raises:
        ImageError: Always.
    """
    if holds_dicom(path):
        raise ImageError(
            f"{path} is a folder",
            received="a folder with DICOM files",
            expected="an image file",
            fix=_DICOM_FIX,
        )
    raise ImageError(
        f"{path} is a folder", expected="an image file", fix="Pass the path of a file in that folder."
    )


def _known(path: Path, received: str, fix: str) -> ImageError:
    return ImageError(
        f"{path} is not an image in a supported format",
        received=received,
        expected="NIfTI, NRRD or MetaImage",
        fix=fix,
    )
