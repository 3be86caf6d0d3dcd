"""Measure where the structures of a label map lie, and warn if they cannot lie there in a patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.manifest import Label
from gcis_runtime.structures.anatomy import MOST_SPREAD_MM, ORDER, Direction
from gcis_runtime.structures.match import Concept, concept_of

_LEAST_ML = 1.0
"""Volume from which a structure counts; smaller parts are noise of the network."""
_APART_MM = 4.0
"""Distance of the voxels that are read: 1 mL has 15 of them, and reading all of them may take seconds."""
_TOLERANCE_MM = 10.0
"""Distance by which the centres of two structures must be in the wrong order."""
_AXES: dict[Direction, tuple[int, float]] = {"left of": (0, -1.0), "in front of": (1, 1.0), "above": (2, 1.0)}
"""RAS+ axis and sign of each direction."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Position:
    """Position of a structure.

    Attributes:
        ml: Volume in mL.
        centre: (3,) mean of its voxels in RAS+ mm.
        spread: Root mean square distance of its voxels from the centre in mm.
    """

    ml: float
    centre: NDArray[np.float64]
    spread: float


def measure_positions(
    labels: NDArray[Any], affine: NDArray[np.float64], values: Sequence[int]
) -> dict[int, Position]:
    """Return the position of each structure, by label value.

    Of voxels smaller than 4 mm, only some are read, at most 4 mm apart. Structures without any of these are
    left out.

    Args:
        labels: (X, Y, Z), Fortran-contiguous for speed.
        affine: (4, 4), voxel index to RAS+ mm.
        values: Label values.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    steps = np.clip(_APART_MM // spacing, 1, labels.shape).astype(int)
    labels = labels[tuple(slice(None, None, step) for step in steps)]
    linear, count = affine[:3, :3] * steps, max(values) + 1
    middle = (np.array(labels.shape) - 1) / 2  # sums of squares stay small
    number, sums, squares = np.zeros(count), np.zeros((3, count)), np.zeros(count)
    for z in range(labels.shape[2]):
        plane = labels[:, :, z]
        y, x = np.nonzero(plane.T)
        if not len(x):
            continue
        index = np.stack([x, y, np.full(len(x), z)]) - middle[:, None]
        mm, here = linear @ index, plane[x, y]
        number += np.bincount(here, minlength=count)
        for axis in range(3):
            sums[axis] += np.bincount(here, mm[axis], minlength=count)
        squares += np.bincount(here, (mm**2).sum(axis=0), minlength=count)
    origin = linear @ middle + affine[:3, 3]
    voxel_ml = abs(float(np.linalg.det(linear))) / 1000.0
    found = {}
    for value in values:
        if number[value]:
            centre = sums[:, value] / number[value]
            variance = squares[value] / number[value] - float(centre @ centre)
            found[value] = Position(
                ml=float(number[value]) * voxel_ml, centre=centre + origin, spread=max(variance, 0.0) ** 0.5
            )
    return found


def label_map_warnings(
    labels: Sequence[Label], label_map: NDArray[Any], affine: NDArray[np.float64]
) -> tuple[str, ...]:
    """Return the warnings of `position_warnings` about a label map.

    Args:
        labels: The manifest's labels of the structures that were segmented.
        label_map: (X, Y, Z), Fortran-contiguous for speed.
        affine: (4, 4), voxel index to RAS+ mm.
    """
    return position_warnings(labels, measure_positions(label_map, affine, [label.value for label in labels]))


def position_warnings(labels: Sequence[Label], positions: Mapping[int, Position]) -> tuple[str, ...]:
    """Warn if structures lie where they cannot lie in a patient, as in an image with a wrong orientation.

    Args:
        labels: The manifest's labels of the structures that were segmented.
        positions: The positions by label value.
    """
    found = [
        (label.name, concept_of(label.prompt), positions[label.value])
        for label in labels
        if label.value in positions and positions[label.value].ml >= _LEAST_ML
    ]
    seen = [*_scattered(found), *_misplaced(found)]
    if not seen:
        return ()
    return (
        f"structures are where they cannot be: {'; '.join(seen)}. Expected: a CT of these structures whose"
        " header has the orientation of the patient. Is the image upside down, prone or mirrored?",
    )


_Found = Sequence[tuple[str, Concept, Position]]


def _scattered(found: _Found) -> list[str]:
    """Describe structures whose voxels are further apart than in any patient."""
    return [
        f"{name} spreads over {position.spread:.0f} mm (at most {limit:.0f})"
        for name, concept, position in found
        if (limit := MOST_SPREAD_MM.get(concept.structure)) is not None and position.spread > limit
    ]


def _misplaced(found: _Found) -> list[str]:
    """Describe pairs of structures in the wrong order."""
    seen = []
    for name, concept, position in found:
        for other_name, other, other_position in found:
            direction = _direction(concept, other)
            if direction is None:
                continue
            axis, sign = _AXES[direction]
            distance = sign * float(position.centre[axis] - other_position.centre[axis])
            if distance < -_TOLERANCE_MM:
                seen.append(f"{name} is not {direction} {other_name} ({distance:.0f} mm)")
    return seen


def _direction(one: Concept, other: Concept) -> Direction | None:
    """Return where one structure lies relative to another in every patient; None if unknown."""
    if one.structure == other.structure and (one.side, other.side) == ("left", "right"):
        return "left of" if one.number == other.number else None
    for first, direction, second in ORDER:
        if (one.structure, other.structure) == (first, second):
            return direction
    return None
