"""Measure each structure: volume, HU, position in the patient, and whether the image cuts it off."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.report_parts import Statistics, StructureReport
from gcis_runtime.system.atomic_files import replacing

COLUMNS = (
    "case", "structure", "value", "voxels", "volume_ml", "mean_hu", "sd_hu",
    "x_min_mm", "x_max_mm", "y_min_mm", "y_max_mm", "z_min_mm", "z_max_mm", "touches_edge",
    "study_uid", "series_uid",
)  # fmt: skip
"""Columns of the CSV file. Positions increase to the patient's right (x), front (y) and head (z), as RAS+.

The UIDs are StudyInstanceUID and SeriesInstanceUID; empty for an image that is not DICOM.
"""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a formula in a spreadsheet. File names, and so names of cases, may begin with them."""


def measure_structures(volume: Volume, labels: NDArray[Any], values: Sequence[int]) -> dict[int, Statistics]:
    """Measure every structure in one pass over the planes of a label map.

    Args:
        volume: The image, HU.
        labels: Label values, (X, Y, Z) of the volume.
        values: Label values to measure.

    Returns:
        Measurements by label value.
    """
    sums = _Sums(len(values), volume.affine)
    number = np.full(max(values) + 2, -1, dtype=np.intp)  # index of each label value; -1 for all others
    number[list(values)] = np.arange(len(values))
    for k in range(volume.shape[2]):
        x, y = np.nonzero(labels[:, :, k])
        which = number[np.minimum(labels[x, y, k].astype(np.intp), len(number) - 1)]
        if (which < 0).any():
            x, y, which = x[which >= 0], y[which >= 0], which[which >= 0]
        if len(x):
            sums.add(which, x, y, k, volume.array[x, y, k].astype(np.float64))
    return {value: sums.statistics(i, volume) for i, value in enumerate(values)}


class _Sums:
    """Sums over the planes so far. Means and squares are merged plane by plane (Chan et al. 1983)."""

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
        """Add the labelled voxels of plane `k`: structure index, voxel indices and HU of each."""
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
        """Return the measurements of structure `i`."""
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


def csv_rows(
    case: str, structures: Iterable[StructureReport], *, uids: tuple[str, str] = ("", "")
) -> list[list[Any]]:
    """Return the rows of one case for the CSV file.

    Args:
        case: Name of the case.
        structures: Structures of its report; those without measurements are left out.
        uids: UIDs of the DICOM study and series.
    """
    rows = []
    for s in structures:
        found = s.statistics
        if not isinstance(found, Statistics):
            continue
        low, high = (box or ("", "", "") for box in (found.box_min_mm, found.box_max_mm))
        corners = [bound for pair in zip(low, high, strict=True) for bound in pair]
        numbers = ["" if value is None else value for value in (found.mean_hu, found.sd_hu)]
        edge = str(found.touches_edge).lower()
        rows.append([case, s.name, s.value, found.voxels, found.volume_ml, *numbers, *corners, edge, *uids])
    return rows


def write_csv(path: Path, rows: Iterable[Sequence[Any]], *, escaped: bool = False) -> None:
    """Write rows as CSV (RFC 4180, UTF-8), atomically; the first row is the header.

    Text that a spreadsheet would read as a formula is prefixed with an apostrophe, which marks it as text.

    Args:
        path: The file.
        rows: The rows.
        escaped: The rows were read from a file that this function wrote; their text is not prefixed again.

    Raises:
        OutputError: The file cannot be written.
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows(row if escaped else [no_formula(cell) for cell in row] for row in rows)
    with replacing(path) as temporary:
        temporary.write_bytes(text.getvalue().encode())


def no_formula(cell: Any) -> Any:
    """Return a cell as `write_csv` writes it."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
