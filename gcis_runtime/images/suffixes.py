"""List the suffixes of image files; this module imports no other, so that commands start quickly."""

from __future__ import annotations

from pathlib import Path

NIFTI = (".nii.gz", ".nii", ".nii.bz2", ".hdr", ".hdr.gz")
"""`.hdr` names a pair of header and `.img`; of the two files, folders list the header."""
NRRD = (".nrrd", ".nhdr")
ITK = (*NRRD, ".mha", ".mhd")
"""Formats that SimpleITK writes, and their variants with voxels in another file."""
READABLE = (*NIFTI, *ITK)
WRITABLE = (".nii.gz", ".nii", ".nrrd", ".mha")


def suffix_of(path: Path) -> str:
    """Return the suffix of an image file in lower case, or an empty string for other files."""
    name = path.name.lower()
    return next((suffix for suffix in READABLE if name.endswith(suffix)), "")


def stem(path: Path) -> str:
    """Return the name of a file without its image suffix, or for other files without its last suffix."""
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix else path.stem
