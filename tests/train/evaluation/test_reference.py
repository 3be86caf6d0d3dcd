"""`gcis-train evaluate --restore published` scores the masks of the published evaluation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from gcis_runtime import Segmenter
from gcis_runtime.images.nifti import write_volume
from gcis_train.cli.main import main
from gcis_train.evaluation.bundle_predictions import bundle_source
from gcis_train.evaluation.reference import reference_labels
from tests.support.bundles_and_images import conv_weights, write_bundle
from tests.support.published_labels import CASES, SPEC, WINDOW, assert_equal, masks_of, volume_of


@pytest.mark.parametrize("case", CASES)
def test_the_reference_pipeline_gives_the_published_masks(tmp_path, case):
    write_volume(tmp_path / "ct.nii.gz", volume_of(case))
    kernel, bias = (torch.from_numpy(array) for array in conv_weights())
    for prompt, expected in enumerate(masks_of(case)):
        part = slice(prompt, prompt + 1)
        labels = reference_labels(
            tmp_path / "ct.nii.gz",
            lambda window, part=part: torch.nn.functional.conv3d(window, kernel[part], bias[part], padding=1),
            preprocess=SPEC,
            window=WINDOW,
            restore="published",
        )
        assert_equal(labels, expected)


def test_a_bundle_is_scored_on_the_published_masks(tmp_path):
    write_volume(tmp_path / "ct.nii.gz", volume_of("anisotropic"))
    write_bundle(tmp_path / "b.gcis", preprocess=SPEC, window=WINDOW)
    case = SimpleNamespace(image=tmp_path / "ct.nii.gz")
    with bundle_source(
        str(tmp_path / "b.gcis"), engine="onnx", precision="fp32", restore="published"
    ) as source:
        labels = source.predict(case).labels
    assert source.notes["restore"] == "published"
    assert_equal(labels, masks_of("anisotropic").any(axis=0))


def test_a_bundle_is_scored_with_its_rules_unless_raw(tmp_path):
    write_volume(tmp_path / "ct.nii.gz", volume_of("anisotropic"))
    bundle = write_bundle(tmp_path / "b.gcis", preprocess=SPEC, window=WINDOW, post=("largest,fill", ""))
    case = SimpleNamespace(image=tmp_path / "ct.nii.gz")
    with Segmenter.open(bundle, engine="onnx") as segmenter:
        expected = {raw: segmenter.segment(volume_of("anisotropic"), raw=raw).labels for raw in (False, True)}
    assert not np.array_equal(*expected.values())
    for raw, labels in expected.items():
        with bundle_source(str(bundle), engine="onnx", precision="fp32", raw=raw) as source:
            assert np.array_equal(source.predict(case).labels, labels)
        recorded = {name: source.notes.get(name) for name in ("post", "raw")}
        rules = {"bone": "largest,fill"}
        assert recorded == ({"post": None, "raw": True} if raw else {"post": rules, "raw": None})


def test_raw_belongs_to_a_bundle(tmp_path):
    words = ["evaluate", "--checkpoint", "c", "--raw", "--datalist", "d.json", "-o", str(tmp_path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and "--raw requires --bundle" in result.stderr
