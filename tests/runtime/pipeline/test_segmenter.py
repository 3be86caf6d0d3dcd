"""Test end to end: labels equal those of MONAI's transforms, sliding window and inverse."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import Compose, Invertd, Orientationd, ScaleIntensityRanged, Spacingd
from scipy.spatial.transform import Rotation

from gcis_runtime import Segmenter, Volume
from gcis_runtime.errors import EngineError, OutputError, PromptError
from gcis_runtime.grids.grid_transform import plan_grid
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from tests.support.bundles_and_images import GAIN, THRESHOLD, conv_weights, smooth_ct
from tests.support.ties import decided_voxels

OBLIQUE = Rotation.from_euler("xyz", [10, -7, 23], degrees=True).as_matrix()


def affine_of(linear):
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = (120, -80, 40)
    return affine


GRIDS = {
    "LPS, anisotropic": ((60, 50, 30), affine_of(np.diag([-1.5, -1.5, 4.0]))),
    "permuted and flipped": ((30, 66, 50), affine_of(np.array([[0, 1.7, 0], [0, 0, -1.5], [3.3, 0, 0]]))),
    "oblique": ((55, 60, 33), affine_of(OBLIQUE @ np.diag([-1.6, 1.6, 3.0]))),
    "gantry tilt": ((55, 60, 33), affine_of(np.array([[1.6, 0, 0], [0, 1.6, 0.6], [0, 0, 3.0]]))),
    "larger than windows": ((100, 90, 60), affine_of(np.diag([2.0, 2.0, 2.5]))),
    "three slices": ((70, 70, 3), affine_of(np.diag([2.0, 2.0, 3.0]))),
}


def reference(array, affine, spec, window, restore):
    """PyTorch and MONAI: transforms, sliding window, then argmax and inverse in either order."""
    low, high = spec.intensity_window
    transform = Compose(
        [
            Orientationd(["image"], spec.orientation, labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd(["image"], spec.spacing, mode="bilinear"),
            ScaleIntensityRanged(["image"], low, high, 0, 1, clip=True),
        ]
    )
    data = transform(
        {"image": MetaTensor(torch.from_numpy(array.astype(np.float32))[None], affine=torch.tensor(affine))}
    )
    kernel, bias = (torch.from_numpy(a) for a in conv_weights())
    margins = sliding_window_inference(
        data["image"].as_tensor()[None], window.patch_size, 1,
        lambda w: torch.nn.functional.conv3d(w, kernel, bias, padding=1),
        overlap=window.overlap, mode=window.blend, sigma_scale=window.sigma_scale, cval=window.padding_value,
    )  # fmt: skip
    scores = torch.cat([torch.zeros_like(margins[:, :1]), margins], dim=1)[0]
    smooth = restore == "smooth"
    values = scores if smooth else scores.argmax(dim=0, keepdim=True).float()
    data["label"] = MetaTensor(values, meta=data["image"].meta)
    undo = Invertd("label", transform, orig_keys="image", nearest_interp=not smooth, to_tensor=True)
    undone = undo(data)["label"]
    return undone.argmax(dim=0).numpy() if smooth else undone[0].numpy()


@pytest.mark.parametrize("restore", ["nearest", "smooth"])
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("case", GRIDS)
def test_labels_are_those_of_the_reference_pipeline(make_bundle, case, engine, restore):
    shape, affine = GRIDS[case]
    spec = PreprocessSpec(orientation="RAS", spacing=(2.0, 2.0, 2.0))
    window = WindowSpec(patch_size=(64, 64, 64), overlap=0.5)
    array = smooth_ct(shape, seed=3)
    expected = reference(array, affine, spec, window, restore)
    with Segmenter.open(make_bundle(preprocess=spec, window=window), engine=engine) as segmenter:
        result = segmenter.segment(Volume(array=array, affine=affine), restore=restore)
    assert result.labels.shape == shape
    assert result.restore == restore
    decided = decided_voxels(shape, affine, plan_grid(shape, affine, spec))
    assert np.mean((result.labels == expected)[decided]) >= 0.9999
    assert np.mean(result.labels == expected) >= 0.999
    assert min(np.mean(expected == value) for value in (0, 1, 2)) > 0.02  # all labels occur: the test can see


@pytest.fixture
def volume():
    return Volume(array=smooth_ct((40, 36, 30)), affine=np.diag([-3.0, -3.0, 3.0, 1.0]))


def test_the_result_says_what_was_done(make_bundle, volume):
    seen = []
    with Segmenter.open(make_bundle(values=(7, 300)), engine="onnx") as segmenter:
        result = segmenter.segment(volume, progress=lambda done, total: seen.append((done, total)))
    assert result.labels.dtype == np.uint16
    assert set(np.unique(result.labels)) == {0, 7, 300}
    for structure in result.structures:
        assert structure.voxels == np.count_nonzero(result.labels == structure.value) > 0
        assert structure.volume_ml == pytest.approx(structure.voxels * 0.027, abs=1e-3)
    assert seen[-1] == (result.windows, result.windows)
    assert set(result.seconds) == {"preprocess", "network", "blend", "restore"}
    assert result.peak_memory is None or result.peak_memory > 1 << 20
    assert result.engine.text.startswith("onnx ")


def test_an_unknown_way_back_is_refused(make_bundle, volume):
    with (
        Segmenter.open(make_bundle(), engine="onnx") as segmenter,
        pytest.raises(OutputError, match="'smoth'; expected smooth, nearest or published"),
    ):
        segmenter.segment(volume, restore="smoth")


def test_a_subset_of_prompts_is_the_winner_among_them(make_bundle, volume):
    folder = make_bundle()
    with (
        Segmenter.open(folder, engine="onnx") as both,
        Segmenter.open(folder, engine="onnx", prompts=["liver"]) as one,
    ):
        everything, liver = both.segment(volume), one.segment(volume)
    assert [s.name for s in liver.structures] == ["liver"]
    assert set(np.unique(liver.labels)) == {0, 2}
    np.testing.assert_array_equal(liver.labels[everything.labels == 2], 2)
    with pytest.raises(PromptError, match="mean 'liver'"):
        Segmenter.open(folder, prompts=["livr"])


def test_constant_windows_are_reused(make_bundle):
    array = np.full((200, 64, 64), -1000, np.int16)
    array[:40] = smooth_ct((40, 64, 64))
    spec = PreprocessSpec(orientation=None, spacing=None)
    with Segmenter.open(make_bundle(preprocess=spec), engine="onnx") as segmenter:
        result = segmenter.segment(Volume(array=array, affine=np.eye(4)))
    assert result.windows == 6
    assert result.windows_reused == 3


def test_an_answer_that_is_not_finite_is_refused(make_bundle, volume):
    with (
        Segmenter.open(make_bundle(nan=True), engine="onnx") as segmenter,
        pytest.raises(EngineError, match="not finite"),
    ):
        segmenter.segment(volume)


def test_threads_may_share_a_segmenter(make_bundle, volume):
    results = []
    with Segmenter.open(make_bundle(), engine="onnx") as segmenter:
        threads = [
            threading.Thread(target=lambda: results.append(segmenter.segment(volume).labels))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 3
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_images_that_are_not_ct_are_noticed(make_bundle):
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    with Segmenter.open(make_bundle(), engine="onnx") as segmenter:
        for array, text in (
            (smooth_ct((20, 20, 20)) + 1000, "no value below 0"),
            (np.zeros((20, 20, 20)), "every voxel is 0"),
            (smooth_ct((20, 20, 20)) / 100, "unusual"),
        ):
            result = segmenter.segment(Volume.from_array(array.astype(np.float32), affine=affine))
            assert any(text in warning for warning in result.warnings)
        # 129 mm: not smaller than the window of 64 voxels of 2 mm, about which there is a warning of its own.
        assert segmenter.segment(Volume(array=smooth_ct((43, 43, 43)), affine=affine)).warnings == ()


def test_the_test_network_has_two_overlapping_structures():
    assert THRESHOLD[1] < THRESHOLD[0]
    assert GAIN[0] > GAIN[1]
