"""Count detected lesions and false positives: connected components of the true and the predicted mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

DEFINITIONS = {
    "lesion": "connected component of the true mask, on the grid of the image; voxels that share a face, "
    "an edge or a corner are connected",
    "detected": "a lesion with at least one predicted voxel",
    "sensitivity": "share of the lesions of all volumes that are detected; undefined without a lesion",
    "false positive": "connected component of the predicted mask without a true voxel, of any size",
}
"""Definitions of the counts, included in the summary of an evaluation with lesions."""

_NEIGHBOURS = np.ones((3, 3, 3), bool)
"""Neighbours of a voxel: all 26."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection:
    """Lesions of one prompt in one volume.

    Attributes:
        lesions: Number of true lesions.
        detected: Number of them that are detected.
        false_positives: Number of predicted components without a true voxel.
    """

    lesions: int
    detected: int
    false_positives: int


def detect(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> Detection:
    """Count lesions, detected lesions and false positives; see `DEFINITIONS`.

    Args:
        predicted: Predicted mask (X, Y, Z).
        truth: True mask (X, Y, Z) on the same grid.
    """
    lesions, count = ndimage.label(truth, structure=_NEIGHBOURS)
    found, components = ndimage.label(predicted, structure=_NEIGHBOURS)
    hit, right = lesions[predicted], found[truth]
    return Detection(
        lesions=int(count),
        detected=int(np.unique(hit[hit > 0]).size),
        false_positives=int(components) - int(np.unique(right[right > 0]).size),
    )


def totals(detections: Sequence[Detection]) -> dict[str, Any]:
    """Return the counts over all volumes of one prompt as JSON values.

    Volumes without a lesion are also counted apart: false positives in them are not due to the neighbourhood
    of a lesion.
    """
    lesions = sum(d.lesions for d in detections)
    detected = sum(d.detected for d in detections)
    free = [d for d in detections if not d.lesions]
    return {
        "lesions": lesions,
        "detected": detected,
        "sensitivity": round(detected / lesions, 4) if lesions else None,
        "volumes": len(detections),
        "false_positives": sum(d.false_positives for d in detections),
        "false_positives_per_volume": _per_volume(detections),
        "volumes_without_lesion": len(free),
        "false_positives_per_volume_without_lesion": _per_volume(free),
    }


def table(result: dict[str, dict[str, Any]]) -> str:
    """Return the totals of each prompt as a Markdown table."""
    lines = [
        "| lesion | volumes | lesions | detected | sensitivity | false positives per volume "
        "| volumes without lesion | false positives per volume without lesion |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for prompt, row in result.items():
        numbers = [
            row["volumes"],
            row["lesions"],
            row["detected"],
            _text(row["sensitivity"]),
            _text(row["false_positives_per_volume"]),
            row["volumes_without_lesion"],
            _text(row["false_positives_per_volume_without_lesion"]),
        ]
        lines.append(f"| {' | '.join([prompt, *map(str, numbers)])} |")
    return "\n".join(lines) + "\n"


def _per_volume(detections: Sequence[Detection]) -> float | None:
    if not detections:
        return None
    return round(sum(d.false_positives for d in detections) / len(detections), 4)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
