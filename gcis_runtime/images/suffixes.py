"""Suffixes of image files; nothing is imported, so that names can be planned before anything is loaded."""

from __future__ import annotations

from pathlib import Path

NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".mha", ".mhd")
"""Read and written through SimpleITK."""
READABLE = (*NIFTI, *ITK)
WRITABLE = (".nii.gz", ".nii", ".nrrd", ".mha")


def suffix_of(path: Path) -> str:
    """Return an image's suffix in lower case, or an empty string where it has none of ours."""
    name = path.name.lower()
    return next((suffix for suffix in READABLE if name.endswith(suffix)), "")


def stem(path: Path) -> str:
    """Return a file's name without its image suffix, or without its last suffix."""
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix else path.stem
