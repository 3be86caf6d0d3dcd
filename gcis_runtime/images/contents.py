"""Recognise the format of a file by its first bytes, and name in the error what is no image."""

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
_UNPACK = "Unpack or convert it first."
_TAR = 257
"""Position of the magic string of a tar archive."""
_ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive",
    b"Rar!": "a RAR archive",
    b"\x1f\x8b": "gzip data",
    b"\x1f\x9d": "data of compress",
    b"\x04\x22\x4d\x18": "LZ4 data",
    b"\x93NUMPY": "a NumPy array",
    b"CDF\x01": "a MINC or NetCDF file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\xfd7zXZ\x00": "xz data",
    b"\x28\xb5\x2f\xfd": "zstd data",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89HDF": "an HDF5 file",
}

_FORMATS = ((b"\x1f\x8b", ".nii.gz"), (b"BZh", ".nii.bz2"), (b"NRRD", ".nrrd"), (b"PK\x03\x04", ".zip"))
_NIFTI = (b"n+1\0", b"n+2\0")


def suffix_of_content(head: bytes) -> str:
    """Return the suffix of the format of a file, for files without a name.

    Args:
        head: Its first bytes, 348 or more.

    Returns:
        Such as `.nii.gz`, `.mha`, `.dcm` or `.zip`; empty if the format is not known.
    """
    if found := next((suffix for magic, suffix in _FORMATS if head.startswith(magic)), ""):
        return found
    if is_dicom(head):
        return ".dcm"
    if head[344:348] in _NIFTI or head[4:8] in _NIFTI:
        return ".nii"
    key, equals, _ = head[:40].partition(b"=")
    return ".mha" if equals and key.strip().isalnum() else ""


def refuse_known(path: Path, head: bytes) -> None:
    """Raise an error if the first bytes are known not to be those of an image in a supported format.

    Recognises empty files, git-LFS and git-annex pointers, HTML and XML pages, DICOM, archives and pictures.

    Args:
        path: The file, for the message.
        head: Its first bytes, uncompressed; up to `HEAD` are used.

    Raises:
        ImageError: One of these was found; the message names it.
    """
    _refuse_text(path, head)
    if is_dicom(head):
        raise _known(path, "a DICOM file", _DICOM_FIX)
    if head[_TAR : _TAR + 5] == b"ustar":
        raise _known(path, "a tar archive", _UNPACK)
    for magic, name in _ARCHIVES.items():
        if head.startswith(magic):
            raise _known(path, name, _UNPACK)


def _refuse_text(path: Path, head: bytes) -> None:
    """Raise an error for an empty file, a pointer to another file, or the answer of a server."""
    if not head:
        raise ImageError(f"{path} is empty", received="0 bytes", expected="an image", fix=f"{_FETCH} again.")
    text = _text_of(head)
    if text.startswith(b"version https://git-lfs"):
        raise _known(path, "a git-LFS pointer, not the file", "Run `git lfs pull`.")
    if b"annex/objects/" in text and len(head) < HEAD and b"\x00" not in head:
        raise _known(path, "a git-annex pointer, not the file", "Run `git annex get FILE`.")
    if text.startswith(b"<"):
        raise _known(path, "an HTML or XML page, such as an error page of a download", f"{_FETCH} again.")
    if text.startswith(b"{"):
        raise _known(path, "JSON text, such as the error message of a download", f"{_FETCH} again.")


def refuse_pointer(path: Path) -> None:
    """Raise an error if a file of voxels is small and not voxels but a pointer, a page or empty.

    Args:
        path: A file that another file, its header, names.

    Raises:
        ImageError: See `refuse_known`.
    """
    if path.stat().st_size < HEAD:
        with path.open("rb") as file:
            _refuse_text(path, file.read(HEAD))


def refuse_missing(path: Path) -> None:
    """Raise the error for a path that does not exist, naming a link whose target is missing.

    Raises:
        ImageError: Always.
    """
    if not path.is_symlink():
        raise ImageError(f"{path} does not exist", expected="an image file", fix="Check the path.")
    target = path.readlink()
    annex = "annex" in target.parts
    raise ImageError(
        f"{path} is a link to a file that does not exist",
        received=f"a link to {target}",
        expected="an image file",
        fix="Run `git annex get FILE`." if annex else "Check the target of the link.",
    )


def _text_of(head: bytes) -> bytes:
    """Return the start of a text file in lower case, without byte order mark and leading white space."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head[2:].replace(b"\x00", b"")
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()


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
