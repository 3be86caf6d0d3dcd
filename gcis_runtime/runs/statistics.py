"""Numbers of each structure: volume, HU, where it lies in the patient, and whether the image cuts it off."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.images.volume import Volume
from gcis_runtime.system.atomic_files import replacing

COLUMNS = (
    "case", "structure", "value", "voxels", "volume_ml", "mean_hu", "sd_hu",
    "x_min_mm", "x_max_mm", "y_min_mm", "y_max_mm", "z_min_mm", "z_max_mm", "touches_edge",
)  # fmt: skip
"""Of the CSV. Millimetres grow towards the patient's right (x), front (y) and head (z): NIfTI's RAS+."""


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Begin a formula in a spreadsheet; file names, and so names of cases, may begin with them."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Measures of one structure in a label map.

    Attributes:
        voxels: Its voxels.
        volume_ml: Their volume in mL.
        mean_hu: Mean of the image over them; None where there are none.
        sd_hu: Standard deviation over them (divided by their number); None where there are none.
        box_min_mm: Lowest corner of the box that holds the voxels whole, along the patient's axes right,
            anterior, superior (NIfTI's RAS+), mm; None where there are none.
        box_max_mm: Its highest corner.
        touches_edge: Whether a voxel lies in the first or last plane of an axis of the image: the structure
            may go on outside.
    """

    voxels: int
    volume_ml: float
    mean_hu: float | None
    sd_hu: float | None
    box_min_mm: tuple[float, float, float] | None
    box_max_mm: tuple[float, float, float] | None
    touches_edge: bool


def measure_structures(volume: Volume, labels: NDArray[Any], values: Sequence[int]) -> dict[int, Statistics]:
    """Measure every structure in one pass over the planes of a label map.

    Args:
        volume: The image, HU.
        labels: Label values, (X, Y, Z) of the volume.
        values: Label values to measure.

    Returns:
        Measures by label value.
    """
    sums = _Sums(len(values), volume.affine)
    number = np.full(max(values) + 2, -1, dtype=np.intp)  # of each label value; -1 for all others
    number[list(values)] = np.arange(len(values))
    for k in range(volume.shape[2]):
        x, y = np.nonzero(labels[:, :, k])
        which = number[np.minimum(labels[x, y, k], len(number) - 1)]
        if (which < 0).any():
            x, y, which = x[which >= 0], y[which >= 0], which[which >= 0]
        if len(x):
            sums.add(which, x, y, k, volume.array[x, y, k].astype(np.float64))
    return {value: sums.statistics(i, volume) for i, value in enumerate(values)}


class _Sums:
    """What planes have told so far. Means and squares are merged plane by plane (Chan et al. 1983)."""

    def __init__(self, structures: int, affine: NDArray[np.float64]) -> None:
        self._affine = affine
        self._count = np.zeros(structures)
        self._mean = np.zeros(structures)
        self._squares = np.zeros(structures)
        self._index = [np.full((structures, 3), bound) for bound in (np.inf, -np.inf)]
        self._place = [np.full((structures, 3), bound) for bound in (np.inf, -np.inf)]

    def add(
        self,
        which: NDArray[np.intp],
        x: NDArray[np.intp],
        y: NDArray[np.intp],
        k: int,
        hu: NDArray[np.float64],
    ) -> None:
        """Take the labelled voxels of plane `k`: structure number, indices and HU of each."""
        size = len(self._count)
        count = np.bincount(which, minlength=size).astype(np.float64)
        here = np.maximum(count, 1)
        mean = np.bincount(which, weights=hu, minlength=size) / here
        squares = np.bincount(which, weights=(hu - mean[which]) ** 2, minlength=size)
        total = np.maximum(self._count + count, 1)
        shift = mean - self._mean
        self._squares += squares + shift**2 * self._count * count / total
        self._mean += shift * count / total
        self._count += count
        for axis, indices in enumerate((x, y, np.full(len(x), k))):
            np.minimum.at(self._index[0][:, axis], which, indices)
            np.maximum.at(self._index[1][:, axis], which, indices)
            row = self._affine[axis]
            place = row[0] * x + row[1] * y + (row[2] * k + row[3])
            np.minimum.at(self._place[0][:, axis], which, place)
            np.maximum.at(self._place[1][:, axis], which, place)

    def statistics(self, i: int, volume: Volume) -> Statistics:
        """Return structure `i`'s measures."""
        voxels = int(self._count[i])
        if not voxels:
            return Statistics(
                voxels=0, volume_ml=0.0, mean_hu=None, sd_hu=None,
                box_min_mm=None, box_max_mm=None, touches_edge=False,
            )  # fmt: skip
        half = np.abs(self._affine[:3, :3]).sum(axis=1) / 2  # a voxel's extent along the patient's axes
        low, high = self._place[0][i] - half, self._place[1][i] + half
        first, last = self._index[0][i], self._index[1][i]
        return Statistics(
            voxels=voxels,
            volume_ml=round(voxels * volume.voxel_ml, 4),
            mean_hu=round(float(self._mean[i]), 3),
            sd_hu=round(float(np.sqrt(self._squares[i] / voxels)), 3),
            box_min_mm=_corner(low),
            box_max_mm=_corner(high),
            touches_edge=bool((first == 0).any() or (last == np.array(volume.shape) - 1).any()),
        )


def _corner(place: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (round(float(p), 3) for p in place)
    return x, y, z


def csv_rows(case: str, structures: Iterable[dict[str, Any]]) -> list[list[Any]]:
    """Return the CSV's rows of one case.

    Args:
        case: The case's name.
        structures: Of its report, with `statistics`.
    """
    rows = []
    for s in structures:
        found = s["statistics"]
        low, high = (found[name] or ("", "", "") for name in ("box_min_mm", "box_max_mm"))
        corners = [bound for pair in zip(low, high, strict=True) for bound in pair]
        numbers = ["" if found[name] is None else found[name] for name in ("mean_hu", "sd_hu")]
        edge = str(found["touches_edge"]).lower()
        rows.append(
            [case, s["name"], s["value"], found["voxels"], found["volume_ml"], *numbers, *corners, edge]
        )
    return rows


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV (RFC 4180, UTF-8), whole or not at all; the first row is the header.

    A text that spreadsheets would take for a formula gets an apostrophe in front, which they read as "text".

    Raises:
        OutputError: The file cannot be written.
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_no_formula(cell) for cell in row] for row in rows)
    with replacing(path) as temporary:
        temporary.write_bytes(text.getvalue().encode())


def _no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
