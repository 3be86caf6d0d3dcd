"""Read and write image files by their suffix: NIfTI, NRRD and MetaImage; SimpleITK writes the latter two."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError, OutputError
from gcis_runtime.images import itk, itk_read, nifti
from gcis_runtime.images.grid import Grid
from gcis_runtime.images.suffixes import ITK, WRITABLE, suffix_of
from gcis_runtime.images.volume import Decoded, Volume
from gcis_runtime.platforms import nearest_rounding
from gcis_runtime.system.gzip_stream import MAX_DEFLATE_RATIO
from gcis_runtime.system.memory import bytes_text

_SUSPICIOUS_BYTES, _MOST_SHRINK = 1 << 30, 200
"""Noise limits the compression of CT to a factor of about 10; constant voxels reach 230 to 1030."""


@nearest_rounding()
def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a CT volume in HU: NRRD and MetaImage by suffix, all others as NIfTI.

    Raises:
        ImageError: See `nifti.read_volume`; also if `path` is not a path.
    """
    path = as_path(path)
    return read_decoded(path).volume(path)


def read_decoded(path: Path) -> Decoded:
    """Read the voxels and the geometry of a file; finiteness is not checked.

    Raises:
        ImageError: See `read_volume`.
    """
    return itk_read.read_decoded(path) if suffix_of(path) in ITK else nifti.read_decoded(path)


def read_grid(path: str | os.PathLike[str]) -> Grid:
    """Read shape and affine of an image or a label map, from its header alone.

    Raises:
        ImageError: See `read_volume`.
    """
    path = as_path(path)
    return itk_read.read_grid(path) if suffix_of(path) in ITK else nifti.read_grid(path)


def as_path(path: object) -> Path:
    """Convert a string or a path object to a `Path`.

    Raises:
        ImageError: `path` is neither.
    """
    if isinstance(path, str | os.PathLike):
        return Path(path)
    raise ImageError(
        "the argument is not a path",
        received=type(path).__name__,
        expected="a string or a path object",
        fix="Pass arrays and image objects to Segmenter.segment.",
    )


def voxel_bytes(path: Path) -> int:
    """Return the memory in bytes of reading the voxels of a file, from its header alone.

    Raises:
        ImageError: See `read_volume`.
    """
    return itk_read.voxel_bytes(path) if suffix_of(path) in ITK else nifti.voxel_bytes(path)


def check_plausible(path: Path) -> None:
    """Raise an error if a file is too small for a CT: megabytes that decompress to gigabytes of one value.

    Not for label maps and masks, which do compress that far.

    Raises:
        ImageError: The file is too small; also see `read_volume`.
    """
    unpacked = voxel_bytes(path)
    if unpacked <= _SUSPICIOUS_BYTES:
        return
    stored = (itk_read.read_header(path).stored.file if suffix_of(path) in ITK else path).stat().st_size
    # Ratios beyond the limit of deflate mean a truncated file, which the reader reports.
    if _MOST_SHRINK < unpacked / max(stored, 1) < 2 * MAX_DEFLATE_RATIO:
        raise ImageError(
            f"{path} is too small for a CT of its size",
            received=f"{bytes_text(stored)} that decompress to {bytes_text(unpacked)}",
            expected=f"at most {_MOST_SHRINK} times the size of the file",
            fix="Check that the file is a CT and complete.",
        )


@nearest_rounding()
def write_labels(path: str | os.PathLike[str], labels: NDArray[Any], *, like: Volume) -> None:
    """Write a label map with the geometry of `like`, atomically: uint8, or uint16 for values above 255.

    Args:
        path: `.nii.gz`, `.nii`, `.nrrd` or `.mha`.
        labels: Label values, shape (X, Y, Z) of `like`.
        like: The volume that was segmented.

    Raises:
        OutputError: The file cannot be written, or has another suffix.
        ImageError: `labels` has a different shape from `like`, or SimpleITK is needed and not installed.
    """
    path = Path(path)
    if not _for_itk(path):
        nifti.write_labels(path, labels, like=like)
        return
    itk.write_itk(path, nifti.lean_labels(labels, like=like), like=like)


@nearest_rounding()
def write_probability(path: str | os.PathLike[str], scaled: NDArray[np.uint8], *, like: Volume) -> None:
    """Write a probability map, so that readers obtain values from 0 to 1.

    NIfTI files hold uint8 with a scale factor of 1/255, formats without scale factors float32.

    Args:
        path: `.nii.gz`, `.nii`, `.nrrd` or `.mha`; written atomically.
        scaled: The probability times 255, (X, Y, Z) of `like`.
        like: The volume that was segmented.

    Raises:
        OutputError: The file cannot be written, or has another suffix.
        ImageError: SimpleITK is needed and not installed.
    """
    path = Path(path)
    if _for_itk(path):
        itk.write_itk(path, scaled.astype(np.float32) / np.float32(255), like=like)
    else:
        nifti.write_scaled(path, scaled, slope=1 / 255, like=like)


def check_format(path: Path, *, write: bool = False) -> None:
    """Raise an error if the format of a file cannot be written in this environment; every format can be read.

    Raises:
        ImageError: The format needs SimpleITK, which is not installed.
        OutputError: `write`, and the format is read-only.
    """
    if write and _for_itk(path):
        itk.load_simpleitk(path)


def _for_itk(path: Path) -> bool:
    """Return whether SimpleITK writes a file; raise an error for read-only formats."""
    suffix = suffix_of(path)
    if suffix and suffix not in WRITABLE:
        raise OutputError(
            f"{path} has a read-only format", expected=", ".join(WRITABLE), fix="Use -o NAME.mha."
        )
    return suffix in ITK
