"""`restore="published"` gives the masks of the published evaluation, voxel for voxel."""

from __future__ import annotations

import numpy as np
import pytest

from gcis_runtime import Segmenter
from gcis_runtime.errors import OutputError
from gcis_runtime.pipeline.options import SegmentOptions
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from tests.support.published_labels import CASES, SPEC, WINDOW, assert_equal, masks_of, volume_of


@pytest.fixture
def folder(make_bundle):
    return make_bundle(preprocess=SPEC, window=WINDOW)


@pytest.mark.parametrize("case", CASES)
def test_masks_are_those_of_the_published_evaluation(folder, case):
    expected = masks_of(case)
    with Segmenter.open(folder, engine="onnx", precision="fp32") as segmenter:
        result = segmenter.segment(volume_of(case), restore="published", masks=True)
        nearest = segmenter.segment(volume_of(case), restore="nearest", masks=True)
    assert result.restore == "published"
    for index, value in enumerate((1, 2)):
        assert_equal(result.masks[value], expected[index])
    assert_equal(result.labels, expected.any(axis=0))
    changed = np.mean(nearest.masks[1] != result.masks[1])
    assert changed > 1e-3  # the nearest voxel by position is another one


def test_one_prompt_gives_its_mask_as_the_label_map(folder):
    with Segmenter.open(folder, engine="onnx", precision="fp32", prompts=["liver"]) as segmenter:
        labels = segmenter.segment(volume_of("anisotropic"), restore="published").labels
    assert_equal(labels, masks_of("anisotropic")[1])


def test_labels_without_resampling_differ_only_by_the_weights(make_bundle):
    spec, window = PreprocessSpec(spacing=None), WindowSpec(patch_size=(64, 64, 64), blend="constant")
    volume = volume_of("fewer voxels than the file")
    with Segmenter.open(make_bundle(preprocess=spec, window=window), engine="onnx") as segmenter:
        published = segmenter.segment(volume, restore="published").labels
        nearest = segmenter.segment(volume, restore="nearest").labels
    np.testing.assert_array_equal(published, nearest)


def test_probabilities_are_looked_up_like_masks(folder):
    with Segmenter.open(folder, engine="onnx", precision="fp32") as segmenter:
        result = segmenter.segment(
            volume_of("smaller than a window"), restore="published", masks=True, probabilities=True
        )
    for value in (1, 2):
        probability, mask = result.probabilities[value], result.masks[value] > 0
        assert probability[mask].min() >= 127 and probability[~mask].max() <= 128


@pytest.mark.parametrize("limit", [{"roi": "0:9,0:9,0:9"}, {"coarse": 2.0}, {"body_crop": True}])
def test_a_part_of_the_image_is_refused(limit):
    with pytest.raises(OutputError, match=rf"part of the image.*{next(iter(limit))}.*nearest"):
        SegmentOptions(restore="published", **limit)
    assert SegmentOptions(restore="published", body_crop=False).body_crop is False
    assert SegmentOptions(restore="nearest", **limit)
