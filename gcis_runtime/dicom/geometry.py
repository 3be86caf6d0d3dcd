"""Order the slices of a series, check that they form a grid, and compute its affine.

Only ImagePositionPatient, ImageOrientationPatient and PixelSpacing are used: file names, InstanceNumber and
SliceThickness do not determine positions. A gantry tilt makes the affine sheared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.dicom.frames import Frame
from gcis_runtime.dicom.headers import text_of
from gcis_runtime.errors import ImageError
from gcis_runtime.text import counted

TOLERANCE = 0.1
"""Largest distance of a slice from its place on a regular grid, as a share of the voxel size."""
_SAME_PLACE = 1e-2
"""Slices closer than this, in mm, have the same position."""
_SAME_AXES = 1e-3
_FEW = 3
_FIX = "Export the series again, or pass --allow-irregular to interpolate a regular grid."


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """The slices of a series in the order of their positions.

    Attributes:
        frames: Slices along the normal, one per position.
        duplicates: Index into `frames` and further slices at the same position, which must be identical.
        affine: (4, 4) voxel index (column, row, slice) to RAS+ mm.
        shape: Columns, rows and slices of the grid.
        depths: Positions of the slices along the normal in units of grid slices; None if slice k has depth k.
        tilt: Angle in degrees between the slice normal and the direction of the stack.
        notes: What a reader of the report must know.
    """

    frames: tuple[Frame, ...]
    duplicates: tuple[tuple[int, Frame], ...]
    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    depths: NDArray[np.float64] | None
    tilt: float
    notes: tuple[str, ...]


def stack_frames(frames: Sequence[Frame], *, allow_irregular: bool) -> Stack:
    """Order slices and compute their grid.

    Args:
        frames: Slices of one series, in any order.
        allow_irregular: Accept missing and unevenly spaced slices; the grid then has the median distance.

    Raises:
        ImageError: Fewer than two positions; different orientations, sizes or voxel sizes; several
            acquisitions; missing, shifted or unevenly spaced slices.
    """
    if not frames:
        raise ImageError("the series has no CT slice", received="only localisers")
    _check_alike(frames)
    ordered = sorted(frames, key=lambda f: f.depth)
    kept, duplicates = _positions(ordered)
    if len(kept) < 2:
        raise ImageError(
            "the series has one slice",
            received=ordered[0].name,
            expected="two or more slices, whose distance is the slice spacing",
            fix="Pass the folder of the series.",
        )
    depths = np.array([f.depth for f in kept])
    places = np.array([f.position for f in kept])
    gaps = np.diff(depths)
    step = float(np.median(gaps))
    first, last = places[0], places[-1]
    regular = _regular(kept, depths, allow_irregular=allow_irregular)
    notes = [f"{counted(len(duplicates), 'duplicate slice')} left out"] if duplicates else []
    if regular:
        count = len(kept)
        relative = None
        direction = (last - first) / (count - 1)
    else:
        count = round(float((depths[-1] - depths[0]) / step)) + 1
        relative = (depths - depths[0]) / (depths[-1] - depths[0]) * (count - 1)
        direction = (last - first) / (count - 1)
        notes.append(
            f"{len(kept)} slices at uneven distances ({gaps.min():.3f} to {gaps.max():.3f} mm) were "
            f"interpolated to {count} slices, {np.linalg.norm(direction):.3f} mm apart"
        )
    _check_straight(kept, depths, direction, allow_irregular=allow_irregular)
    frame = kept[0]
    affine = np.eye(4)
    affine[:3, 0] = frame.axes[0] * frame.spacing[1]
    affine[:3, 1] = frame.axes[1] * frame.spacing[0]
    affine[:3, 2] = direction
    affine[:3, 3] = first
    affine[:2] *= -1  # LPS to RAS
    cosine = float(direction @ frame.normal / np.linalg.norm(direction))
    tilt = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if tilt > 0.1:
        notes.append(f"gantry tilt of {tilt:.1f} degrees: the grid is sheared")
    return Stack(
        frames=tuple(kept), duplicates=tuple(duplicates), affine=affine,
        shape=(frame.columns, frame.rows, count), depths=relative, tilt=tilt, notes=tuple(notes),
    )  # fmt: skip


def _check_alike(frames: Sequence[Frame]) -> None:
    """Raise an error unless all slices have one orientation, size, voxel size and frame of reference."""
    first = frames[0]
    tests: dict[str, Callable[[Frame], bool]] = {
        "orientation": lambda f: bool(np.abs(f.axes - first.axes).max() <= _SAME_AXES),
        "size": lambda f: (f.rows, f.columns) == (first.rows, first.columns),
        "PixelSpacing": lambda f: bool(np.allclose(f.spacing, first.spacing, rtol=1e-3)),
        "frame of reference": lambda f: _reference(f) == _reference(first),
    }
    for name, same in tests.items():
        others = [f for f in frames if not same(f)]
        if others:
            raise ImageError(
                f"the series mixes slices of different {name}",
                received=f"{len(frames) - len(others)} slices like {first.name}, {len(others)} like "
                f"{others[0].name}",
                expected=f"one {name}",
                fix="Pass the files of one stack.",
            )


def _positions(ordered: Sequence[Frame]) -> tuple[list[Frame], list[tuple[int, Frame]]]:
    """Keep one slice per position.

    Raises:
        ImageError: Many positions occur in several acquisitions.
    """
    kept: list[Frame] = []
    duplicates: list[tuple[int, Frame]] = []
    for frame in ordered:
        if kept and np.linalg.norm(frame.position - kept[-1].position) <= _SAME_PLACE:
            duplicates.append((len(kept) - 1, frame))
        else:
            kept.append(frame)
    acquisitions: dict[str, int] = defaultdict(int)
    for frame in ordered:
        acquisitions[text_of(frame.header, "AcquisitionNumber")] += 1
    differ = [(kept[i], f) for i, f in duplicates if _acquisition(f) != _acquisition(kept[i])]
    if differ:
        one, other = differ[0]
        counts = ", ".join(f"{number or 'none'} ({count} slices)" for number, count in acquisitions.items())
        raise ImageError(
            "the series has several acquisitions at the same positions",
            received=f"AcquisitionNumber {counts}; at {counted(len(differ), 'position')} both, such as "
            f"{one.name} and {other.name}",
            expected="one acquisition",
            fix="Pass the files of one acquisition.",
        )
    return kept, duplicates


def _reference(frame: Frame) -> str:
    return text_of(frame.header, "FrameOfReferenceUID")


def _acquisition(frame: Frame) -> str:
    return text_of(frame.header, "AcquisitionNumber")


def _regular(kept: Sequence[Frame], depths: NDArray[np.float64], *, allow_irregular: bool) -> bool:
    """Return whether slices are evenly spaced; raise an error if they are not and must be."""
    even = np.linspace(depths[0], depths[-1], len(depths))
    gaps = np.diff(depths)
    step = float(np.median(gaps))
    off = np.abs(depths - even).max()
    wide = np.flatnonzero(np.abs(gaps - step) > 2 * TOLERANCE * step)
    if off <= TOLERANCE * step and not len(wide):
        return True
    if allow_irregular:
        return False
    places = [
        f"{gaps[i]:.3f} mm between {kept[i].depth:.2f} and {kept[i + 1].depth:.2f} mm" for i in wide[:_FEW]
    ]
    more = f" and {len(wide) - _FEW} more" if len(wide) > _FEW else ""
    missing = int(sum(round(float(gaps[i] / step)) - 1 for i in wide if gaps[i] > 1.5 * step))
    raise ImageError(
        f"the series lacks {counted(missing, 'slice')}" if missing else "slices are unevenly spaced",
        received="; ".join(places) + more if places else f"slices up to {off:.3f} mm from a regular grid",
        expected=f"slices {step:.3f} mm apart, each within {TOLERANCE:g} of this distance",
        fix=_FIX,
    )


def _check_straight(
    kept: Sequence[Frame],
    depths: NDArray[np.float64],
    direction: NDArray[np.float64],
    *,
    allow_irregular: bool,
) -> None:
    """Raise an error if slices are shifted sideways from the line through the first and the last one."""
    along = (depths - depths[0]) / (direction @ kept[0].normal)
    places = np.array([f.position for f in kept])
    line = places[0] + along[:, None] * direction
    off = np.linalg.norm(places - line, axis=1)
    limit = TOLERANCE * min(kept[0].spacing)
    worst = int(off.argmax())
    if off[worst] > limit and not (allow_irregular and off[worst] <= 0.5 * min(kept[0].spacing)):
        raise ImageError(
            "slices are shifted sideways",
            received=f"{kept[worst].name}: {off[worst]:.3f} mm",
            expected=f"at most {limit:.3f} mm from a straight stack",
            fix="Export the series again.",
        )
