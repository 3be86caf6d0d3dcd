"""Test that scores are computed in mm, and are defined for empty masks."""

from __future__ import annotations

import numpy as np
import pytest

from gcis_train.evaluation.scores import score, surface_scores

SHAPE = (40, 36, 30)


def block(low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_counts_in_mm_along_its_axis(axis: int) -> None:
    """HD95 of a block and its copy shifted by one voxel is the voxel size along the axis."""
    spacing = (0.9, 1.7, 4.0)
    truth = block((10, 10, 10), (20, 20, 20))
    moved = np.roll(truth, 1, axis=axis)
    surface, distance = surface_scores(moved, truth, spacing=spacing, tolerance=2.0)
    assert distance == pytest.approx(spacing[axis])
    assert (surface == pytest.approx(1.0)) == (spacing[axis] <= 2.0)  # forgiven where it is below 2 mm


def test_the_tolerance_decides_what_is_forgiven() -> None:
    truth, moved = block((10, 10, 10), (20, 20, 20)), block((13, 10, 10), (23, 20, 20))
    shares = [
        surface_scores(moved, truth, spacing=(1.0, 1.0, 1.0), tolerance=t)[0] for t in (0.0, 1.0, 2.9, 3.1)
    ]
    assert 0 < shares[0] < shares[1] < shares[2] < shares[3] == pytest.approx(1.0)
    # At no tolerance, only the sides along the shift lie on one another, 7 of 10 voxels long.
    assert shares[0] == pytest.approx(4 * 7 / 60, abs=0.1)


def test_the_share_is_one_of_area_not_of_voxels() -> None:
    """A plate of 4 mm voxels: the areas of its faces are counted in mm, not in voxels."""
    truth, moved = block((10, 10, 10), (20, 20, 14)), block((10, 10, 11), (20, 20, 15))
    fine = surface_scores(moved, truth, spacing=(1.0, 1.0, 1.0), tolerance=0.5)[0]
    coarse = surface_scores(moved, truth, spacing=(1.0, 1.0, 4.0), tolerance=0.5)[0]
    assert coarse > fine + 0.1  # the sides, which agree, have four times the area


def test_masks_at_the_border_and_far_apart() -> None:
    corner = block((0, 0, 0), (4, 4, 4))
    assert surface_scores(corner, corner, spacing=(2.0, 2.0, 2.0), tolerance=2.0) == (1.0, 0.0)
    far = block((36, 0, 0), (40, 4, 4))
    surface, distance = surface_scores(far, corner, spacing=(2.0, 2.0, 2.0), tolerance=2.0)
    assert surface == 0
    assert distance == pytest.approx(72)  # from the outermost face, 36 voxels of 2 mm


@pytest.mark.parametrize(
    ("predicted", "true", "kind", "expected"),
    [
        (False, False, "both", (1.0, 1.0, 0.0)),
        (True, False, "truth", (0.0, 0.0, None)),
        (False, True, "prediction", (0.0, 0.0, None)),
        (True, True, "", (1.0, 1.0, 0.0)),
    ],
)
def test_empty_masks_have_defined_scores(
    predicted: bool, true: bool, kind: str, expected: tuple[float, float, float | None]
) -> None:
    empty, full = np.zeros(SHAPE, bool), block((3, 3, 3), (9, 9, 9))
    found = score(
        full if predicted else empty, full if true else empty, case="c", prompt="p", spacing=(1.0, 2.0, 3.0)
    )
    assert (found.dice, found.surface_dice, found.hd95_mm) == expected
    assert found.empty == kind
    assert (found.voxels_predicted, found.voxels_true) == (216 * predicted, 216 * true)
