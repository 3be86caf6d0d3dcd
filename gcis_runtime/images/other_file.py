"""Find the file that the header of an image names for its voxels, without opening that file."""

from __future__ import annotations

from pathlib import Path

from gcis_runtime.errors import ImageError
from gcis_runtime.images.itk_header import lines_of
from gcis_runtime.images.nifti_pair import voxel_file
from gcis_runtime.images.suffixes import ITK, NRRD, suffix_of


def other_file(path: Path) -> Path | None:
    """Return the file with the voxels of an image; None if they are in the image file itself.

    None also if the header cannot be read or names several files, which reading the image reports.
    """
    suffix = suffix_of(path)
    try:
        if suffix.startswith(".hdr"):
            return voxel_file(path)
        name = _named(path, nrrd=suffix in NRRD) if suffix in ITK else None
    except (ImageError, OSError):
        return None
    return None if name is None else path.parent / name


def refuse_other_file(path: Path) -> None:
    """Raise an error if an image that was received as one file names another file for its voxels.

    Raises:
        ImageError: It does. The other file, which may be any file of this machine, was not opened.
    """
    if other_file(path) is not None:
        raise ImageError(
            "the image names another file for its voxels",
            received="a header",
            expected="header and voxels in one file",
            fix="Convert it to one file, such as .nii.gz.",
        )


def file_stamp(path: Path) -> tuple[int, int]:
    """Return size and time of the last change (ns) of an image, each summed with its other file.

    The later of two times would hide that the other file was replaced by an older one.

    Raises:
        OSError: A file does not exist or cannot be read.
    """
    other = other_file(path)
    found = [file.stat() for file in (path, other) if file is not None]
    return sum(status.st_size for status in found), sum(status.st_mtime_ns for status in found)


def _named(path: Path, *, nrrd: bool) -> str | None:
    """Return the name in an NRRD or MetaImage header; None for `LOCAL` or without one."""
    with path.open("rb") as file:
        lines = lines_of(path, file)
    for line in lines:
        key, _, value = line.partition(":" if nrrd else "=")
        is_name = key.strip().lower().replace(" ", "") == ("datafile" if nrrd else "elementdatafile")
        if is_name and value.strip().lower() != "local":
            return value.strip()
    return None
