"""Mark structures that a person should check: empty, cut off, in pieces, of implausible HU or size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.grids.components import components, find_runs, sizes
from gcis_runtime.pages.tissues import tissue_of
from gcis_runtime.pictures.view import Extent, PatientView
from gcis_runtime.pipeline.report_parts import Mark, Statistics, StructureReport
from gcis_runtime.structures.match import concept_of

FEW_VOXELS = 10
MAIN_PIECE = 0.9
"""Smallest share of a structure's largest connected piece: organs are connected."""
STRAY_MM = 20.0
"""Largest distance by which other pieces may extend beyond the box of the largest one."""
PAIR_RATIO = 1.5
"""Largest ratio of the volumes of a left and a right structure. Healthy pairs differ by less."""
PAIR_ML = 1.0
"""Smallest volume that is compared: below it, the ratio depends on single layers of voxels."""


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """How a structure is connected.

    Attributes:
        main: Share of the largest connected piece.
        count: Number of pieces.
        stray_mm: Largest distance by which the other pieces extend beyond the box of the largest one.
    """

    main: float
    count: int
    stray_mm: float


def find_marks(structures: Sequence[StructureReport], pieces: Mapping[int, Pieces]) -> tuple[Mark, ...]:
    """Return the marks of all structures, in their order.

    Args:
        structures: Structures with their measurements.
        pieces: How each structure is connected, by label value; may lack some.
    """
    pairs = _pair_marks(structures)
    found: list[Mark] = []
    for s in structures:
        found += _size_marks(s, pieces.get(s.value))
        found += _measured_marks(s)
        found += [mark for mark in pairs if mark.value == s.value]
    return tuple(found)


def _size_marks(s: StructureReport, pieces: Pieces | None) -> list[Mark]:
    if not s.voxels:
        return [Mark(value=s.value, short="empty", text="No voxel has this label.")]
    marks = []
    if s.voxels < FEW_VOXELS:
        text = f"Only {s.voxels} voxels have this label."
        marks.append(Mark(value=s.value, short="tiny", text=text))
    if pieces is not None and (pieces.main < MAIN_PIECE or pieces.stray_mm > STRAY_MM):
        text = (
            f"It has {pieces.count} unconnected pieces. The largest has {_percent(pieces.main)} of the"
            f" volume, and the others extend up to {pieces.stray_mm:.0f} mm beyond it."
        )
        marks.append(Mark(value=s.value, short="in pieces", text=text))
    return marks


def _measured_marks(s: StructureReport) -> list[Mark]:
    found = s.statistics
    if not isinstance(found, Statistics) or found.mean_hu is None:
        return []
    marks = []
    if found.touches_edge:
        text = "It reaches the border of the image and may continue outside: the volume may be incomplete."
        marks.append(Mark(value=s.value, short="at the border", text=text))
    tissue = tissue_of(s.name)
    if tissue is not None and not tissue.low <= found.mean_hu <= tissue.high:
        text = (
            f"The mean is {found.mean_hu:.0f} HU; {tissue.low:.0f} to {tissue.high:.0f} HU are plausible"
            f" for {tissue.name}."
        )
        marks.append(Mark(value=s.value, short="implausible HU", text=text))
    return marks


def _pair_marks(structures: Sequence[StructureReport]) -> list[Mark]:
    """Return marks of left and right structures whose volumes or sides do not match."""
    sides: dict[tuple[str, str], dict[str, StructureReport]] = {}
    for s in structures:
        concept = concept_of(s.name)
        if concept.side in ("left", "right"):
            sides.setdefault((concept.structure, concept.number), {})[concept.side] = s
    marks = []
    for pair in sides.values():
        if len(pair) == 2:
            marks += _compare(pair["left"], pair["right"])
    return marks


def _compare(left: StructureReport, right: StructureReport) -> list[Mark]:
    if not left.voxels or not right.voxels:
        return []
    marks = []
    small, large = sorted((left, right), key=lambda s: s.volume_ml)
    cut = any(isinstance(s.statistics, Statistics) and s.statistics.touches_edge for s in (left, right))
    if not cut and large.volume_ml >= PAIR_ML and large.volume_ml > PAIR_RATIO * small.volume_ml:
        text = (
            f"The volumes of {left.name} and {right.name} differ by a factor of"
            f" {large.volume_ml / small.volume_ml:.1f}; above {PAIR_RATIO:g} is marked."
        )
        marks += [Mark(value=s.value, short="unequal pair", text=text) for s in (left, right)]
    x_left, x_right = _x_mm(left), _x_mm(right)
    if x_left is not None and x_right is not None and x_left > x_right:
        text = f"{left.name} lies to the right of {right.name}: sides may be exchanged."
        marks += [Mark(value=s.value, short="sides exchanged", text=text) for s in (left, right)]
    return marks


def _x_mm(s: StructureReport) -> float | None:
    """Return the middle of a structure along the axis to the patient's right."""
    found = s.statistics
    if not isinstance(found, Statistics) or found.box_min_mm is None or found.box_max_mm is None:
        return None
    return (found.box_min_mm[0] + found.box_max_mm[0]) / 2


def _percent(share: float) -> str:
    """Return a share in percent, with as many digits as distinguish it from 100%."""
    return f"{100 * share:.0f}%" if share < 0.99 else f"{100 * share:.4g}%"


def find_pieces(view: PatientView, extents: Mapping[int, Extent]) -> dict[int, Pieces]:
    """Return how each structure is connected (26 neighbours), by label value.

    Args:
        view: The label map.
        extents: Where the structures are.
    """
    found = {}
    for value, extent in extents.items():
        box = tuple(slice(a, b + 1) for a, b in zip(extent.low, extent.high, strict=True))
        found[value] = _pieces(np.asarray(view.labels[box] == value), view.spacing)
    return found


def _pieces(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> Pieces:
    """Return how the voxels of a mask (R, A, S), which fills its box, are connected."""
    x, y, z = mask.shape
    runs = find_runs((x, y, z), lambda planes: mask[planes])
    component = components(runs, 26)
    size = sizes(runs, component)
    largest = runs.selected(component == size.argmax())
    stray = 0.0
    for axis, index in enumerate(largest.voxels()):
        beyond = max(int(index.min()), mask.shape[axis] - 1 - int(index.max()))
        stray = max(stray, beyond * float(spacing[axis]))
    return Pieces(
        main=float(size.max() / size.sum()), count=int(np.count_nonzero(size)), stray_mm=round(stray, 1)
    )
