"""Test that orientation, spacing and their inverse agree with MONAI voxel by voxel on every kind of grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, ScaleIntensityRanged, Spacingd
from scipy.spatial.transform import Rotation

from gcis_runtime.grids.grid_transform import plan_grid
from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.images.volume import Volume
from gcis_runtime.spec import PreprocessSpec

OBLIQUE = Rotation.from_euler("xyz", [10, -7, 23], degrees=True).as_matrix()
LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


def grid(spacing, *, rotation=None, order=(0, 1, 2), flips=(1, 1, 1), shear=0.0, single=False):
    affine = np.eye(4)
    linear = (np.eye(3) if rotation is None else rotation) @ np.diag(spacing)
    linear[:, 2] += shear * linear[:, 1]
    affine[:3, :3] = linear @ (np.eye(3)[:, list(order)] * np.array(flips))
    affine[:3, 3] = (-100, 33.3, 7)
    return affine.astype(np.float32).astype(np.float64) if single else affine


CASES = {
    "same grid": (grid((1, 1, 1)), "RAS", (1, 1, 1)),
    "finer by whole steps": (grid((2, 2, 4)), "RAS", (2, 2, 2)),
    "coarser, ties in the undo": (grid((1, 1, 1)), "RAS", (2, 2, 2)),
    "anisotropic, flipped": (grid((0.8, 0.8, 2.5), flips=(-1, -1, 1)), "RAS", (1.5, 1.5, 2)),
    "to LPS": (grid((0.9, 1.1, 3)), "LPS", (2, 2, 2)),
    "permuted and flipped": (grid((1.5, 1, 3), order=(2, 0, 1), flips=(-1, 1, -1)), "RAS", (2, 2, 2)),
    "oblique": (grid((1, 1, 3), rotation=OBLIQUE, order=(2, 0, 1), flips=(-1, 1, -1)), "RAS", (2, 2, 2)),
    "oblique, float32 header": (grid((1, 1, 3), rotation=OBLIQUE, single=True), "RAS", (2, 2, 2)),
    "oblique, float32 header, ties in the undo": (
        grid((1.5, 1.5, 1.5), rotation=OBLIQUE, single=True),
        "RAS",
        (2, 2, 2),
    ),
    "gantry tilt": (grid((0.9, 1.1, 3), rotation=OBLIQUE, shear=0.2), "RAS", (2, 2, 2)),
    "gantry tilt, float32 header": (grid((0.9, 1.1, 3), shear=0.2, single=True), "RAS", (2, 2, 2)),
    "orientation only": (grid((1, 1, 3), rotation=OBLIQUE, flips=(-1, -1, 1)), "RAS", None),
    "spacing only": (grid((1, 1, 3), flips=(-1, -1, 1)), None, (1, 1, 1)),
    "nothing": (grid((1, 1, 3), flips=(-1, -1, 1)), None, None),
}


def monai_transform(spec):
    steps = []
    if spec.orientation:
        steps.append(Orientationd(["image"], spec.orientation, labels=LABELS))
    if spec.spacing:
        steps.append(Spacingd(["image"], spec.spacing, mode="bilinear"))
    low, high = spec.intensity_window
    return Compose([*steps, ScaleIntensityRanged(["image"], low, high, 0, 1, clip=True)])


@pytest.mark.parametrize("shape", [(41, 37, 29), (64, 3, 1)])
@pytest.mark.parametrize("case", CASES)
def test_forward_and_undo_agree_with_monai(case, shape):
    affine, orientation, spacing = CASES[case]
    spec = PreprocessSpec(orientation=orientation, spacing=spacing)
    rng = np.random.default_rng(0)
    array = (rng.standard_normal(shape) * 400).astype(np.float32)
    transform = monai_transform(spec)
    data = transform({"image": MetaTensor(torch.from_numpy(array)[None], affine=torch.tensor(affine))})
    reference = data["image"][0].numpy()

    ours = preprocess(Volume(array=array, affine=affine), spec)
    assert ours.array.shape == reference.shape == ours.transform.shape
    assert ours.array.dtype == np.float32
    assert np.abs(ours.array - reference).max() < 1e-5
    np.testing.assert_allclose(ours.transform.affine, data["image"].affine.numpy(), atol=1e-9)

    labels = rng.integers(0, 8, reference.shape).astype(np.uint8)  # salt: every voxel is a boundary
    data["label"] = data["image"].clone()
    data["label"][0] = torch.from_numpy(labels).float()
    undo = Invertd("label", transform, orig_keys="image", nearest_interp=True, to_tensor=True)
    expected = undo(data)["label"][0].numpy()
    restored = ours.transform.invert(labels)
    assert restored.shape == shape
    assert restored.dtype == np.uint8
    assert np.mean(restored != expected) <= 1e-4


def test_int16_and_float32_give_the_same_input():
    affine, orientation, spacing = CASES["permuted and flipped"]
    array = np.random.default_rng(1).integers(-1000, 2000, (20, 21, 22)).astype(np.int16)
    spec = PreprocessSpec(orientation=orientation, spacing=spacing)
    a = preprocess(Volume(array=array, affine=affine), spec).array
    b = preprocess(Volume(array=np.asfortranarray(array.astype(np.float32)), affine=affine), spec).array
    np.testing.assert_array_equal(a, b)


def test_a_point_keeps_its_place_in_the_patient():
    affine = grid((1, 1, 3), rotation=OBLIQUE, order=(1, 2, 0), flips=(1, -1, -1))
    array = np.zeros((60, 50, 40), dtype=np.float32)
    array[28:33, 22:27, 18:23] = 1000
    transform = plan_grid((60, 50, 40), affine, PreprocessSpec(orientation="RAS", spacing=(2, 2, 2)))
    moved = transform.forward(array)

    def centre(image, to_mm):
        index = np.array(np.nonzero(image > 500)).mean(axis=1)
        return to_mm[:3, :3] @ index + to_mm[:3, 3]

    assert np.linalg.norm(centre(array, affine) - centre(moved, transform.affine)) < 1.0


def test_restoring_an_identity_grid_changes_nothing():
    transform = plan_grid((5, 6, 7), np.eye(4), PreprocessSpec(orientation="RAS", spacing=(1, 1, 1)))
    labels = np.random.default_rng(2).integers(0, 9, (5, 6, 7)).astype(np.uint8)
    np.testing.assert_array_equal(transform.invert(labels), labels)
    assert transform.to_network is None


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0), (2.0, 2.0, 2.0)])
def test_the_volume_is_never_changed(spacing):
    array = (np.random.default_rng(3).standard_normal((9, 8, 7)) * 400).astype(np.float32)
    before = array.copy()
    preprocess(Volume(array=array, affine=np.eye(4)), PreprocessSpec(orientation="LPS", spacing=spacing))
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("case", CASES)
def test_a_box_is_a_part_of_the_whole_bit_for_bit(case):
    affine, orientation, spacing = CASES[case]
    array = np.random.default_rng(4).integers(-1000, 2000, (41, 37, 29)).astype(np.int16)
    spec = PreprocessSpec(orientation=orientation, spacing=spacing)
    image = preprocess(Volume(array=np.asfortranarray(array), affine=affine), spec)
    whole = image.array
    for axis in range(3):
        middle = whole.shape[axis] // 2
        for first, stop in ((0, middle), (middle, middle + 1), (middle, whole.shape[axis])):
            box = [slice(0, n) for n in whole.shape]
            box[axis] = slice(first, stop)
            np.testing.assert_array_equal(image.box(tuple(box)), whole[tuple(box)])
