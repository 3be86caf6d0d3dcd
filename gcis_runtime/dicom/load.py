"""Read a CT series as a `Volume`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.dicom.files import DicomFile
from gcis_runtime.dicom.frames import Frame, frames_of
from gcis_runtime.dicom.geometry import Stack, stack_frames
from gcis_runtime.dicom.headers import Header, UnreadableDicomError, read_header, text_of
from gcis_runtime.dicom.pixels import PixelReader, read_slices
from gcis_runtime.dicom.series import Series
from gcis_runtime.errors import ImageError
from gcis_runtime.images.volume import Volume, check_affine, check_shape


@dataclass(frozen=True, kw_only=True, eq=False)
class SeriesImage:
    """A series that was read.

    Attributes:
        series: The series.
        stack: Its slices in the order of the third axis, and their grid.
        volume: HU (columns, rows, slices) with the affine of `stack`.
    """

    series: Series
    stack: Stack
    volume: Volume


def plan_series(series: Series, *, allow_irregular: bool = False) -> Stack:
    """Order the slices of a series and compute their grid, from headers alone.

    Args:
        series: The series.
        allow_irregular: See `stack_frames`.

    Raises:
        ImageError: An attribute is missing or invalid, or the slices form no grid.
    """
    headers = series.headers or [_header(file) for file in series.files]
    _check_patient(headers)
    frames: list[Frame] = []
    for file, header in zip(series.files, headers, strict=True):
        frames += frames_of(file, header)
    stack = stack_frames(frames, allow_irregular=allow_irregular)
    check_shape(stack.shape)
    check_affine(stack.affine)
    return stack


def _check_patient(headers: Sequence[Header]) -> None:
    """Raise an error if a series has slices of several patients: results would state the first one.

    Archives send a series again after they corrected the patient; until then, old and new slices are mixed.
    """
    patients = {text_of(header.dataset, "PatientID") for header in headers}
    if len(patients) > 1:
        raise ImageError(
            "the series has slices of several patients",
            received=f"{len(patients)} values of PatientID",
            expected="one",
            fix="Pass the files of one patient; after a correction, send the whole series again.",
        )


def _header(file: DicomFile) -> Header:
    try:
        return read_header(file)
    except UnreadableDicomError as error:
        raise ImageError(f"file {file.number} cannot be read any more", received=str(error)) from error


def read_series(series: Series, *, allow_irregular: bool = False) -> SeriesImage:
    """Read a series.

    Raises:
        ImageError: See `plan_series`; also if voxels cannot be decoded, or slices at one position differ.
    """
    stack = plan_series(series, allow_irregular=allow_irregular)
    _check_duplicates(stack)
    slices = read_slices(stack.frames)
    array = slices if stack.depths is None else _interpolated(slices, stack.depths, stack.shape[2])
    volume = Volume(array=array, affine=stack.affine, notes=(*series.notes, *stack.notes))
    return SeriesImage(series=series, stack=stack, volume=volume)


def _check_duplicates(stack: Stack) -> None:
    """Raise an error if two slices at one position differ."""
    reader = PixelReader([*stack.frames, *(frame for _, frame in stack.duplicates)])
    for index, frame in stack.duplicates:
        kept = stack.frames[index]
        if not np.array_equal(reader.read(kept), reader.read(frame)):
            raise ImageError(
                "two different slices have the same position",
                received=f"{kept.name} and {frame.name}",
                expected="one slice per position",
                fix="Pass the files of one stack.",
            )


def _interpolated(slices: NDArray[Any], depths: NDArray[np.float64], count: int) -> NDArray[Any]:
    """Interpolate slices linearly along the third axis.

    Args:
        slices: (columns, rows, slices).
        depths: Increasing position of each slice in units of the slices of the result.
        count: Number of slices of the result.
    """
    out = np.empty((*slices.shape[:2], count), dtype=slices.dtype)
    for k in range(count):
        right = int(np.clip(np.searchsorted(depths, k), 1, len(depths) - 1))
        share = float(np.clip((k - depths[right - 1]) / (depths[right] - depths[right - 1]), 0, 1))
        mixed = slices[..., right - 1] * np.float32(1 - share) + slices[..., right] * np.float32(share)
        out[..., k] = np.rint(mixed) if out.dtype == np.int16 else mixed
    return out


def slice_labels(labels: NDArray[Any], stack: Stack) -> NDArray[Any]:
    """Return the labels of the original slices, as (columns, rows, slices).

    Args:
        labels: (columns, rows, slices) on the grid of the stack.
        stack: The slices; those of an irregular series take the labels of the nearest slice of the grid.
    """
    if stack.depths is None:
        return labels
    return labels[..., np.clip(np.rint(stack.depths), 0, labels.shape[2] - 1).astype(np.intp)]
