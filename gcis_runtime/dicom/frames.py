"""Turn the headers of CT files into frames: one per file, or several for enhanced multi-frame files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.dicom.files import DicomFile
from gcis_runtime.dicom.headers import Header, attribute, missing_attribute, number_of, numbers_of, text_of
from gcis_runtime.errors import ImageError
from gcis_runtime.images.volume import MAX_VOXELS

_HU_TYPES = ("", "HU")
_UNIT = 1e-3
"""Largest deviation of direction cosines from orthonormal ones."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One slice of a series.

    Attributes:
        file: File that contains it.
        index: Index in a multi-frame file; None for a single frame.
        header: Attributes of the file, without voxels.
        pixel_offset: See `Header`.
        position: (3,) centre of the first voxel in LPS mm (ImagePositionPatient).
        axes: (2, 3) unit vectors along a row and along a column in LPS (ImageOrientationPatient).
        spacing: Distances in mm between the centres of adjacent rows and of adjacent columns (PixelSpacing).
        rows: Voxels along a column.
        columns: Voxels along a row.
        slope: RescaleSlope.
        intercept: RescaleIntercept.
    """

    file: DicomFile
    index: int | None
    header: Any
    pixel_offset: int | None
    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: tuple[float, float]
    rows: int
    columns: int
    slope: float
    intercept: float

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,) unit vector perpendicular to the slice."""
        return np.asarray(np.cross(self.axes[0], self.axes[1]), dtype=np.float64)

    @property
    def depth(self) -> float:
        """Position along `normal` in mm."""
        return float(self.position @ self.normal)

    @property
    def name(self) -> str:
        """Name for messages: position along the normal, and InstanceNumber if there is one."""
        number = text_of(self.header, "InstanceNumber")
        instance = f"instance {number}, " if number else ""
        frame = "" if self.index is None else f"frame {self.index + 1}, "
        return f"the slice at {self.depth:.2f} mm ({instance}{frame}file {self.file.number})"


def frames_of(file: DicomFile, read: Header) -> list[Frame]:
    """Return the frames of a CT file; localiser frames of multi-frame files are left out.

    Raises:
        ImageError: An attribute is missing or invalid, or intensities are not HU.
    """
    header = read.dataset
    where = f"file {file.number} of the series"
    rows, columns = _whole(header, "Rows", where), _whole(header, "Columns", where)
    samples = number_of(header, "SamplesPerPixel") or 1
    kind = text_of(header, "PhotometricInterpretation") or "MONOCHROME2"
    if samples != 1 or kind != "MONOCHROME2":
        raise ImageError(
            f"{where} is not a grey-scale CT image",
            received=f"{kind} with {samples:g} samples per voxel",
            expected="MONOCHROME2",
        )
    count = int(number_of(header, "NumberOfFrames") or 1)
    if count < 1 or rows * columns * count > MAX_VOXELS:
        raise ImageError(
            f"{where} has an implausible size",
            received=f"{columns} x {rows} x {count}",
            expected=f"at most {MAX_VOXELS} voxels",
        )
    shared = _first(header, "SharedFunctionalGroupsSequence")
    groups = attribute(header, "PerFrameFunctionalGroupsSequence")
    if shared is None and not groups:
        if count > 1:
            raise missing_attribute("PerFrameFunctionalGroupsSequence", where)
        return [_frame(file, read, None, (header,), rows=rows, columns=columns)]
    if groups is None or len(groups) != count:
        raise ImageError(
            f"{where} has functional groups for another number of frames",
            received="none" if groups is None else str(len(groups)),
            expected=str(count),
        )
    frames = []
    for index, group in enumerate(groups):
        parts = _parts(group, shared)
        if "LOCALIZER" not in text_of(parts["type"], "FrameType").upper().split("\\"):
            frames.append(_frame(file, read, index, tuple(parts.values()), rows=rows, columns=columns))
    return frames


def _parts(group: Any, shared: Any) -> dict[str, Any]:
    """Return the functional groups of a frame; its own take precedence over shared ones."""
    found = {}
    for key, name in (
        ("position", "PlanePositionSequence"),
        ("axes", "PlaneOrientationSequence"),
        ("spacing", "PixelMeasuresSequence"),
        ("rescale", "PixelValueTransformationSequence"),
        ("type", "CTImageFrameTypeSequence"),
    ):
        item = _first(group, name)
        found[key] = item if item is not None else (_first(shared, name) or {})
    return found


def _frame(
    file: DicomFile, read: Header, index: int | None, parts: tuple[Any, ...], *, rows: int, columns: int
) -> Frame:
    """Read geometry and rescaling from the first of `parts` that has each attribute."""
    where = f"file {file.number} of the series" + ("" if index is None else f", frame {index + 1}")

    def values(name: str, count: int) -> tuple[float, ...]:
        for part in parts:
            found = numbers_of(part, name)
            # Exactly the expected number of values; a repeated single value is an error of the writer.
            if len(found) == count and np.isfinite(found).all():
                return found
        raise missing_attribute(name, where)

    axes = np.array(values("ImageOrientationPatient", 6)).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if np.abs(lengths - 1).max() > _UNIT or abs(float(axes[0] @ axes[1])) > _UNIT:
        raise ImageError(
            f"{where} has an invalid ImageOrientationPatient",
            received=", ".join(f"{v:g}" for v in axes.ravel()),
            expected="two perpendicular unit vectors",
        )
    axes /= lengths[:, None]
    axes[1] -= (axes[0] @ axes[1]) * axes[0]
    axes[1] /= np.linalg.norm(axes[1])
    row, column = values("PixelSpacing", 2)
    if min(row, column) <= 0:
        raise missing_attribute("PixelSpacing", where)
    _check_units(parts, where)
    return Frame(
        file=file, index=index, header=read.dataset, pixel_offset=read.pixel_offset,
        position=np.array(values("ImagePositionPatient", 3)),
        axes=axes, spacing=(row, column), rows=rows, columns=columns,
        slope=_single(parts, "RescaleSlope", where), intercept=_single(parts, "RescaleIntercept", where),
    )  # fmt: skip


def _check_units(parts: tuple[Any, ...], where: str) -> None:
    for part in parts:
        kind = text_of(part, "RescaleType").upper()
        if kind not in _HU_TYPES:
            raise ImageError(
                f"{where} has intensities that are not HU",
                received=f"RescaleType {kind}",
                expected="HU",
                fix="Choose the original CT series.",
            )


def _single(parts: tuple[Any, ...], name: str, where: str) -> float:
    """Return an attribute; several values are accepted only if all are equal."""
    for part in parts:
        found = set(numbers_of(part, name))
        if len(found) == 1 and np.isfinite(value := found.pop()) and (value or name != "RescaleSlope"):
            return value
    raise missing_attribute(name, where)


def _whole(header: Any, name: str, where: str) -> int:
    value = number_of(header, name)
    if value is None or value < 1 or value != int(value):
        raise missing_attribute(name, where)
    return int(value)


def _first(part: Any, name: str) -> Any:
    """Return the first item of a sequence; None if there is none."""
    items = None if part is None else attribute(part, name)
    return items[0] if items else None
