"""Test that straightened grids lie along the patient's axes, cover the image and keep positions."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from gcis_runtime.grids.grid_transform import plan_grid
from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.grids.straight import STRAIGHT_DEGREES, oblique_degrees, straight_grid
from gcis_runtime.images.volume import Volume
from gcis_runtime.spec import PreprocessSpec

TURN = Rotation.from_euler("xyz", [25, -12, 18], degrees=True).as_matrix()
LINEAR = {
    "oblique": TURN @ np.diag([1.0, 1.2, 3.0]),
    "permuted and flipped": TURN @ np.array([[0, 0, 3.0], [-1.5, 0, 0], [0, 1.2, 0]]),
    "gantry tilt": np.array([[0.9, 0, 0], [0, 1.0, 1.2], [0, 0, 3.0]]),
}
SHAPE = (31, 27, 19)
SPEC = PreprocessSpec(orientation="RAS", spacing=(2.0, 2.5, 3.0))


def affine_of(linear):
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = (-40, 33.3, 7)
    return affine


def corners_of(shape):
    return np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1.0)


def in_mm(affine, index):
    return index @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("case", LINEAR)
@pytest.mark.parametrize("spacing", [(2.0, 2.5, 3.0), None])
def test_the_grid_lies_along_the_patients_axes_and_covers_the_image(case, spacing):
    affine = affine_of(LINEAR[case])
    shape, straight = straight_grid(SHAPE, affine, spacing)
    assert oblique_degrees(straight) == 0
    assert nib.aff2axcodes(straight) == nib.aff2axcodes(affine)
    expected = np.linalg.norm(affine[:3, :3], axis=0) if spacing is None else spacing
    np.testing.assert_allclose(np.linalg.norm(straight[:3, :3], axis=0), expected)
    where = np.linalg.solve(straight[:3, :3], (in_mm(affine, corners_of(SHAPE)) - straight[:3, 3]).T).T
    assert (where > -0.01).all() and (where < np.array(shape) - 0.99).all()
    slack = where.min(axis=0), np.array(shape) - 1 - where.max(axis=0)
    np.testing.assert_allclose(*slack, atol=1e-9)
    assert (slack[0] < 0.5).all(), "no plane without need"


@pytest.mark.parametrize("case", LINEAR)
def test_values_are_interpolated_once_and_the_rest_is_the_lower_end_of_the_window(case):
    """SciPy interpolates the image at the position of each network voxel; outside, the input is 0."""
    affine = affine_of(LINEAR[case])
    array = (np.random.default_rng(0).standard_normal(SHAPE) * 300).astype(np.float32)
    ours = preprocess(Volume(array=array, affine=affine), SPEC, straighten=True)
    straight = ours.transform.affine
    assert oblique_degrees(straight) == 0 and nib.aff2axcodes(straight) == tuple("RAS")
    index = np.stack(np.meshgrid(*map(np.arange, ours.transform.shape), indexing="ij"), -1)
    at = np.linalg.solve(affine[:3, :3], (in_mm(straight, index.reshape(-1, 3)) - affine[:3, 3]).T)
    low, high = SPEC.intensity_window
    expected = (map_coordinates(array, at, order=1, mode="nearest") - low) / (high - low)
    expected = np.clip(expected, 0, 1)
    beyond = ((at < -0.5) | (at > np.array(SHAPE)[:, None] - 0.5)).any(axis=0)
    expected[beyond] = 0
    assert 0.2 < beyond.mean() < 0.8  # both occur: the test can see
    found = ours.array.ravel()
    unclear = np.abs(np.minimum(at + 0.5, np.array(SHAPE)[:, None] - 0.5 - at)).min(axis=0) < 1e-6
    np.testing.assert_allclose(found[~unclear], expected[~unclear], atol=2e-5)


@pytest.mark.parametrize("case", LINEAR)
def test_labels_come_back_to_the_voxels_of_the_file(case):
    """Each voxel of the file gets the label of the network voxel that is nearest in mm."""
    affine = affine_of(LINEAR[case])
    transform = plan_grid(SHAPE, affine, SPEC, straighten=True)
    labels = np.random.default_rng(1).integers(0, 200, transform.shape).astype(np.uint8)
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).reshape(-1, 3)
    to_mm = transform.affine
    at = np.linalg.solve(to_mm[:3, :3], (in_mm(affine, index) - to_mm[:3, 3]).T)
    nearest = np.rint(at).astype(int)
    decided = (np.abs(at - nearest) < 0.499).all(axis=0)
    expected = labels[tuple(nearest)].reshape(SHAPE)
    assert (transform.invert(labels) == expected)[decided.reshape(SHAPE)].all()


def test_a_part_has_the_values_of_the_whole():
    array = (np.random.default_rng(0).standard_normal(SHAPE) * 300).astype(np.int16)
    ours = preprocess(Volume(array=array, affine=affine_of(LINEAR["oblique"])), SPEC, straighten=True)
    box = (slice(3, 9), slice(0, 11), slice(5, 6))
    np.testing.assert_array_equal(ours.box(box), ours.array[box])


@pytest.mark.parametrize("degrees", [0.0, 0.9 * STRAIGHT_DEGREES, 90.0])
def test_straight_images_are_not_changed(degrees):
    turn = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
    affine = affine_of(turn @ np.diag([1.0, 1.2, 3.0]))
    plain, straight = (plan_grid(SHAPE, affine, SPEC, straighten=s) for s in (False, True))
    np.testing.assert_array_equal(plain.affine, straight.affine)
    assert straight.straightened is None and plain.shape == straight.shape


def test_the_angle_is_reported():
    affine = affine_of(Rotation.from_euler("y", 20, degrees=True).as_matrix() @ np.diag([1.0, 1.2, 3.0]))
    assert plan_grid(SHAPE, affine, SPEC).straightened is None
    assert plan_grid(SHAPE, affine, SPEC, straighten=True).straightened == pytest.approx(20)
