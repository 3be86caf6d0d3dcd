"""Image files by their suffix: NIfTI, and where SimpleITK is installed NRRD and MetaImage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError, OutputError
from gcis_runtime.images import nifti
from gcis_runtime.images.itk import itk_voxel_bytes, load_simpleitk, read_itk, write_itk
from gcis_runtime.images.itk_header import find_voxels
from gcis_runtime.images.suffixes import ITK, WRITABLE, suffix_of
from gcis_runtime.images.volume import Volume
from gcis_runtime.system.gzip_stream import MAX_DEFLATE_RATIO
from gcis_runtime.system.memory import bytes_text

_SUSPICIOUS_BYTES, _MOST_SHRINK = 1 << 30, 200
"""Noise keeps CT from shrinking more than tenfold or so; one value all over shrinks 230 to 1030 times."""


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a CT volume in HU: NIfTI, or by suffix NRRD and MetaImage (`.nrrd`, `.mha`, `.mhd`).

    Raises:
        ImageError: See `nifti.read_volume`; also where SimpleITK is needed and missing, or this is no path.
    """
    path = _named(path)
    if suffix_of(path) in ITK:
        return read_itk(path)
    return nifti.read_volume(path)


def _named(path: object) -> Path:
    if isinstance(path, str | os.PathLike):
        return Path(path)
    raise ImageError(
        "this names no file",
        received=type(path).__name__,
        expected="a path",
        fix="Segmenter.segment takes images that are no files.",
    )


def voxel_bytes(path: Path) -> int:
    """Return the memory that reading a file's voxels will take, from its header alone.

    Raises:
        ImageError: See `read_volume`.
    """
    return itk_voxel_bytes(path) if suffix_of(path) in ITK else nifti.voxel_bytes(path)


def check_plausible(path: Path) -> None:
    """Refuse a file too small for a CT of its size: a few megabytes that unpack to gigabytes of one value.

    Label maps and masks do shrink so far, and are not checked.

    Raises:
        ImageError: It is; or see `read_volume`.
    """
    unpacked = voxel_bytes(path)
    if unpacked <= _SUSPICIOUS_BYTES:
        return
    stored = (find_voxels(path).file if suffix_of(path) in ITK else path).stat().st_size
    # Beyond what deflate can do the file is truncated, as reading will say.
    if _MOST_SHRINK < unpacked / max(stored, 1) < 2 * MAX_DEFLATE_RATIO:
        raise ImageError(
            f"{path} is too small for a CT of its size",
            received=f"{bytes_text(stored)} that unpack to {bytes_text(unpacked)}",
            expected=f"at most {_MOST_SHRINK} times as much",
            fix="Check that it is a CT, and whole.",
        )


def write_labels(path: str | os.PathLike[str], labels: NDArray[Any], *, like: Volume) -> None:
    """Write a label map with the geometry of `like`, whole or not at all: uint8, or uint16 above 255.

    Args:
        path: `.nii.gz`, `.nii`, `.nrrd` or `.mha`.
        labels: Label values, shape (X, Y, Z) of `like`.
        like: The volume that was segmented.

    Raises:
        OutputError: The file cannot be written, or has another suffix.
        ImageError: `labels` has another shape than `like`, or SimpleITK is needed and missing.
    """
    path = Path(path)
    if not _for_itk(path):
        nifti.write_labels(path, labels, like=like)
        return
    write_itk(path, nifti.lean_labels(labels, like=like), like=like)


def write_probability(path: str | os.PathLike[str], scaled: NDArray[np.uint8], *, like: Volume) -> None:
    """Write a probability that was scaled to 0..255: as uint8 with a slope of 1/255 in NIfTI's header, as
    float32 in formats that have no slope; either way readers see 0 to 1.

    Args:
        path: `.nii.gz`, `.nii`, `.nrrd` or `.mha`; appears whole or not at all.
        scaled: (X, Y, Z) of `like`.
        like: The volume that was segmented.

    Raises:
        OutputError: The file cannot be written, or has another suffix.
        ImageError: SimpleITK is needed and missing.
    """
    path = Path(path)
    if _for_itk(path):
        write_itk(path, scaled.astype(np.float32) / np.float32(255), like=like)
    else:
        nifti.write_scaled(path, scaled, slope=1 / 255, like=like)


def check_format(path: Path, *, write: bool = False) -> None:
    """Refuse early a file whose format needs SimpleITK where that is missing, or cannot be written.

    Raises:
        ImageError: SimpleITK is missing.
        OutputError: `write`, and the format is one that is only read.
    """
    if _for_itk(path) if write else suffix_of(path) in ITK:
        load_simpleitk(path)


def _for_itk(path: Path) -> bool:
    """Tell whether SimpleITK writes a file; refuse what nobody here writes."""
    suffix = suffix_of(path)
    if suffix in ITK and suffix not in WRITABLE:
        raise OutputError(
            f"{path} has a format that is only read", expected=", ".join(WRITABLE), fix="Use -o NAME.mha."
        )
    return suffix in ITK
