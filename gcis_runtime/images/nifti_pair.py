"""Find the two files of a NIfTI pair: `.hdr` with the header and `.img` with the voxels, each maybe `.gz`."""

from __future__ import annotations

from pathlib import Path

from gcis_runtime.errors import ImageError
from gcis_runtime.images.contents import refuse_pointer

_VOXELS, _HEADER = (".img", ".img.gz"), (".hdr", ".hdr.gz")


def header_file(path: Path) -> Path:
    """Return the header beside a file of voxels; other paths unchanged.

    Raises:
        ImageError: There is none.
    """
    ending = _ending(path, _VOXELS)
    if not ending or not path.is_file():
        return path
    return _other(path, ending, _HEADER) or _missing(path, "voxels without a header", ".hdr")


def voxel_file(path: Path) -> Path:
    """Return the file of voxels beside a header.

    Raises:
        ImageError: There is none, or it is a pointer to it.
    """
    ending = _ending(path, _HEADER)
    file = _other(path, ending, _VOXELS) or _missing(path, "a header without voxels", ".img")
    refuse_pointer(file)
    return file


def _ending(path: Path, endings: tuple[str, ...]) -> str:
    return next((path.name[-len(e) :] for e in endings if path.name.lower().endswith(e)), "")


def _other(path: Path, ending: str, endings: tuple[str, ...]) -> Path | None:
    """Return the first file with one of the endings in place of `ending`, in lower or upper case."""
    stem = path.name.removesuffix(ending)
    found = (path.with_name(stem + e) for lower in endings for e in (lower, lower.upper()))
    return next((file for file in found if file.is_file()), None)


def _missing(path: Path, what: str, other: str) -> Path:
    stem = path.name.removesuffix(_ending(path, (*_VOXELS, *_HEADER)))
    raise ImageError(
        f"{path} is {what}",
        received="one file of a .hdr/.img pair",
        expected=f"{stem}{other} beside it",
        fix="Copy both files to one folder.",
    )
