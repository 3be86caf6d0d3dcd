"""Score one structure of one case: Dice, normalised surface Dice and HD95, also for empty masks.

Distances are in mm on the image's grid, between voxel centres at its (anisotropic) spacing. They are computed
by MONAI on masks cropped to their common bounding box, since the cost of distance maps grows with the volume.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from gcis_runtime.spec import Triple
from gcis_train.evaluation.lesions import Detection, detect
from gcis_train.metrics import dice

TOLERANCE = 2.0
"""Default tolerance of the surface Dice in mm."""

DEFINITIONS = {
    "dice": "2 |P and T| / (|P| + |T|) of the predicted voxels P and the true voxels T",
    "surface_dice": "share of the area of both surfaces within the tolerance of the other surface "
    "(normalised surface Dice; marching-cubes surface elements, MONAI with sub-voxel edges)",
    "hd95_mm": "the larger of the two 95th percentiles of distances from the voxels of one surface to the "
    "other surface (MONAI)",
    "both empty": "Dice and surface Dice 1, HD95 0",
    "truth empty": "only the true mask is empty: Dice and surface Dice 0, HD95 undefined",
    "prediction empty": "only the predicted mask is empty: Dice and surface Dice 0, HD95 undefined",
    "undefined": "null in JSON, blank in CSV; excluded from mean, median and worst HD95, and counted",
}
"""Definitions of the scores, included in the summary of an evaluation."""

Empty = Literal["", "both", "truth", "prediction"]
Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Scores of one structure of one case.

    Attributes:
        case: Name of the case.
        prompt: Prompt of the structure.
        dice: Dice coefficient in [0, 1].
        surface_dice: Normalised surface Dice in [0, 1].
        hd95_mm: HD95 in mm; None where exactly one of the masks is empty.
        empty: The mask without voxels: `both`, `truth`, `prediction`, or an empty string for neither.
        voxels_true: Voxels of the true mask.
        voxels_predicted: Voxels of the predicted mask.
        detection: Counts of lesions; None for a prompt whose components are not lesions.
    """

    case: str
    prompt: str
    dice: float
    surface_dice: float
    hd95_mm: float | None
    empty: Empty
    voxels_true: int
    voxels_predicted: int
    detection: Detection | None = None


def score(
    predicted: Mask,
    truth: Mask,
    *,
    case: str,
    prompt: str,
    spacing: Triple,
    tolerance: float = TOLERANCE,
    lesions: bool = False,
) -> Score:
    """Score a predicted mask.

    Args:
        predicted: Predicted mask (X, Y, Z).
        truth: True mask (X, Y, Z) on the same grid.
        case: Name of the case.
        prompt: Prompt of the structure.
        spacing: Voxel size in mm along X, Y, Z.
        tolerance: Tolerance of the surface Dice in mm.
        lesions: Count the connected components as lesions.
    """
    surface, distance = surface_scores(predicted, truth, spacing=spacing, tolerance=tolerance)
    return Score(
        case=case,
        prompt=prompt,
        dice=dice(predicted, truth),
        surface_dice=surface,
        hd95_mm=distance,
        empty=empty_mask(predicted, truth),
        voxels_true=int(truth.sum()),
        voxels_predicted=int(predicted.sum()),
        detection=detect(predicted, truth) if lesions else None,
    )


def surface_scores(
    predicted: Mask, truth: Mask, *, spacing: Triple, tolerance: float
) -> tuple[float, float | None]:
    """Return surface Dice and HD95 in mm of two masks (X, Y, Z); see `DEFINITIONS` for empty ones."""
    empty = empty_mask(predicted, truth)
    if empty:
        return (1.0, 0.0) if empty == "both" else (0.0, None)
    a, b = _cropped(predicted, truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 uses a deprecated argument
        distance = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
    return surface_dice(predicted, truth, spacing=spacing, tolerance=tolerance), float(distance)


def surface_dice(predicted: Mask, truth: Mask, *, spacing: Triple, tolerance: float) -> float:
    """Return the surface Dice of two non-empty masks (X, Y, Z)."""
    a, b = _cropped(predicted, truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return float(
            compute_surface_dice(
                a, b, [tolerance], include_background=True, spacing=spacing, use_subvoxels=True
            )
        )


def _cropped(predicted: Mask, truth: Mask) -> tuple[torch.Tensor, torch.Tensor]:
    """Crop two masks to their common bounding box, in MONAI's layout: batch, class, X, Y, Z.

    MONAI adds a margin of one voxel itself.
    """
    box = box_of(predicted | truth)
    a, b = (torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None] for mask in (predicted, truth))
    return a, b


def empty_mask(predicted: Mask, truth: Mask) -> Empty:
    """Return which of two masks has no voxel: `both`, `truth`, `prediction`, or an empty string."""
    found, wanted = bool(predicted.any()), bool(truth.any())
    if found and wanted:
        return ""
    if not found and not wanted:
        return "both"
    return "truth" if found else "prediction"


def box_of(mask: Mask) -> tuple[slice, ...]:
    """Return the bounding box of a non-empty mask."""
    box = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(box)
