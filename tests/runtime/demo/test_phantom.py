"""Test the procedural phantom: reproducible, correctly oriented, similar to clinical contours."""

from collections.abc import Callable
from functools import lru_cache

import nibabel as nib
import numpy as np
import pytest

from gcis_runtime.demo.phantom import STRUCTURES, Phantom, make_phantom
from gcis_runtime.demo.phantom.canvas import Canvas, Grid
from gcis_runtime.demo.phantom.head import mandible
from gcis_runtime.demo.phantom.neck import cord, larynx
from gcis_runtime.demo.phantom.shapes import Solid, band, ellipsoid, loft, tube
from gcis_runtime.demo.phantom.subject import draw_subject

SEEDS = range(10)
BRAINSTEM, CORD, RIGHT, LEFT, ESOPHAGUS, LARYNX, MANDIBLE = range(1, 8)

# Volume (mL) and mean HU: the span seen in 60 clinical cases.
VOLUME = {1: (12, 44), 2: (10, 45), 3: (11, 46), 4: (10, 48), 5: (3, 22), 6: (4, 54), 7: (29, 92)}
MEAN_HU = {1: (5, 55), 2: (3, 65), 3: (-65, 85), 4: (-65, 90), 5: (-385, 115), 6: (-396, -38), 7: (500, 1000)}


@lru_cache(maxsize=32)
def phantom(seed: int, step: float = 4.0) -> Phantom:
    return make_phantom(seed, spacing=(step, step, step))


def millilitres(p: Phantom, label: int) -> float:
    return float((p.labels == label).sum() * abs(np.linalg.det(p.affine[:3, :3])) / 1000)


def world(p: Phantom, label: int) -> np.ndarray:
    return nib.affines.apply_affine(p.affine, np.argwhere(p.labels == label))


def test_a_seed_is_one_phantom() -> None:
    first, again = (make_phantom(3, spacing=(5, 5, 5)) for _ in range(2))
    np.testing.assert_array_equal(first.ct, again.ct)
    np.testing.assert_array_equal(first.labels, again.labels)
    np.testing.assert_array_equal(first.affine, again.affine)


def test_different_seeds_differ_in_body_and_pose() -> None:
    volumes = {round(millilitres(phantom(s), MANDIBLE), 2) for s in SEEDS}
    tilts = {
        tuple(np.round(world(phantom(s), LARYNX).mean(0) - world(phantom(s), 1).mean(0), 1)) for s in SEEDS
    }
    assert len(volumes) > 8
    assert len(tilts) == len(SEEDS)


def test_default_has_all_structures_types_and_ras_axes() -> None:
    p = make_phantom(0)
    assert set(np.unique(p.labels)) == {0, *STRUCTURES}
    assert (p.ct.dtype, p.labels.dtype, p.affine.dtype) == (np.int16, np.uint8, np.float64)
    assert p.ct.shape == p.labels.shape
    assert p.seed == 0
    assert nib.aff2axcodes(p.affine) == ("R", "A", "S")
    np.testing.assert_allclose(nib.affines.voxel_sizes(p.affine), 3.0)
    assert -1024 <= p.ct.min() <= -990 and 1000 < p.ct.max() <= 3071


@pytest.mark.parametrize("seed", SEEDS)
def test_volumes_and_attenuation_are_clinical(seed: int) -> None:
    p = phantom(seed)
    for label, name in STRUCTURES.items():
        low, high = VOLUME[label]
        assert low <= millilitres(p, label) <= high, name
        low, high = MEAN_HU[label]
        assert low <= p.ct[p.labels == label].mean() <= high, name


@pytest.mark.parametrize("seed", SEEDS)
def test_sides_and_order_in_world_coordinates(seed: int) -> None:
    p = phantom(seed)
    centre = {label: world(p, label).mean(0) for label in STRUCTURES}
    assert centre[RIGHT][0] > centre[BRAINSTEM][0] + 35
    assert centre[LEFT][0] < centre[BRAINSTEM][0] - 35
    assert centre[MANDIBLE][1] > centre[RIGHT][1] + 15
    assert centre[MANDIBLE][1] > centre[LEFT][1] + 15
    heights = [centre[label][2] for label in (BRAINSTEM, MANDIBLE, LARYNX, ESOPHAGUS)]
    assert heights == sorted(heights, reverse=True)
    assert centre[LARYNX][1] > centre[CORD][1] + 25


@pytest.mark.parametrize("seed", SEEDS)
def test_parotids_lie_inside_the_body_and_outside_the_jaw(seed: int) -> None:
    p = phantom(seed)
    jaw = world(p, MANDIBLE)
    middle = jaw[:, 0].mean()
    for label in (RIGHT, LEFT):
        hu = p.ct[p.labels == label]
        assert (hu > -500).mean() > 0.99
        assert (hu > 600).mean() < 0.03
        gland = world(p, label)
        same = jaw[np.abs(jaw[:, 2] - gland[:, 2].mean()) < 8]
        assert np.abs(gland[:, 0] - middle).mean() > np.abs(same[:, 0] - middle).mean()


@pytest.mark.parametrize("seed", SEEDS)
def test_cord_runs_in_a_bony_canal_from_the_brainstem_to_the_last_slice(seed: int) -> None:
    p = phantom(seed)
    labels = p.labels == CORD
    slices = np.flatnonzero(labels.any(axis=(0, 1)))
    assert slices[0] == 0
    assert np.array_equal(slices, np.arange(slices[0], slices[-1] + 1))
    stem = np.flatnonzero((p.labels == BRAINSTEM).any(axis=(0, 1)))
    assert 0 <= stem[0] - slices[-1] + 1 <= 4
    assert (p.ct[labels] > 300).mean() < 0.03
    walled = 0
    for k in slices[:-5]:
        i, j = np.argwhere(labels[:, :, k]).mean(0).round().astype(int)
        walled += all(
            p.ct[cut].max() > 200
            for cut in (np.s_[i, j : j + 8, k], np.s_[i : i + 7, j, k], np.s_[i - 6 : i + 1, j, k])
        )
    assert walled > 0.5 * len(slices[:-5])  # between the arches there are discs and foramina


@pytest.mark.parametrize("seed", [0, 4])
def test_volumes_do_not_depend_on_spacing(seed: int) -> None:
    fine, coarse = make_phantom(seed, spacing=(2.5, 2.5, 3.0)), phantom(seed)
    assert fine.labels.shape != coarse.labels.shape
    for label, name in STRUCTURES.items():
        assert millilitres(fine, label) == pytest.approx(millilitres(coarse, label), rel=0.1), name
        np.testing.assert_allclose(world(fine, label).mean(0), world(coarse, label).mean(0), atol=2.5)


def test_some_phantoms_have_exact_air_and_some_do_not() -> None:
    corners = [phantom(s).ct[:6, -6:, -6:] for s in SEEDS]
    exact = [bool((c == -1000).all()) for c in corners]
    assert any(exact) and not all(exact)


@pytest.mark.parametrize("spacing", [(0.0, 3.0, 3.0), (3.0, float("nan"), 3.0), (3.0, 3.0, 40.0)])
def test_unusable_spacing_is_refused(spacing: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"between 0\.25 and 12"):
        make_phantom(0, spacing=spacing)


@pytest.mark.parametrize(
    ("solid", "volume"),
    [
        (ellipsoid((1, 2, 3), (10, 14, 20)), 4 / 3 * np.pi * 10 * 14 * 20),
        (ellipsoid((0, 0, 0), (10, 14, 20), tilt=30), 4 / 3 * np.pi * 10 * 14 * 20),
        (tube([(0, 0, -15), (0, 0, 15)], 8), np.pi * 64 * 30 + 4 / 3 * np.pi * 512),
        (loft([(-20, 0, 9, 12), (20, 0, 9, 12)]), np.pi * 9 * 12 * 40),
        (band([(-20, 0, -10, 10, 4), (20, 0, -10, 10, 4)], rounding=0), (40 * 8 + np.pi * 16) * 20),
        (ellipsoid((0, 0, 0), (12, 12, 12)).shell(4), 4 / 3 * np.pi * (14**3 - 10**3)),
        (ellipsoid((0, 0, 0), (9, 9, 9)).grown(3), 4 / 3 * np.pi * 12**3),
    ],
)
def test_shapes_have_their_volume_and_stay_in_their_box(solid: Solid, volume: float) -> None:
    axis = np.arange(-35, 35, 0.5, dtype=np.float32) + np.float32(0.25)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    inside = solid.distance(x, y, z) < 0
    assert inside.sum() * 0.125 == pytest.approx(volume, rel=0.02)
    for coordinate, low, high in zip((x, y, z), solid.low, solid.high, strict=True):
        assert low <= coordinate[inside].min() and coordinate[inside].max() <= high


@pytest.mark.parametrize(
    ("shape", "frame", "side"), [(mandible, "head", -1), (larynx, "neck", 0), (cord, "neck", 0)]
)
def test_painting_in_a_box_equals_painting_everywhere(
    shape: Callable[..., Solid], frame: str, side: int
) -> None:
    subject = draw_subject(np.random.default_rng(5))
    canvas = Canvas(Grid(origin=(-90, -110, -190), spacing=(4, 4, 4), shape=(45, 60, 55)), subject)
    solid = shape(subject)
    canvas.paint(solid, 500.0, frame=frame, side=side, label=9)
    x, y, z = canvas.frames[frame]
    everywhere = solid.distance(-x if side < 0 else x, y, z)
    np.testing.assert_array_equal(canvas.labels == 9, everywhere < 0)
    np.testing.assert_array_equal(canvas.ct > -1000, canvas.cover(everywhere) > 0)
