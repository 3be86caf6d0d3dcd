"""Test from file to label map: the labels of a bundle equal those of its network in PyTorch and MONAI."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import agreement
from benchmarks.agreement import VARIANTS, WANTED, comparison
from benchmarks.cli import main
from gcis_export.bundle.labels import make_labels
from gcis_export.bundle.writer import write_graph, write_manifest
from gcis_runtime import Volume
from gcis_runtime.bundles.manifest import Manifest, PromptPathway, Provenance, Tensor
from gcis_runtime.choices import Restore
from gcis_runtime.demo.phantom import make_phantom
from gcis_runtime.images.nifti import write_volume
from gcis_runtime.spec import Foreground, PreprocessSpec, WindowSpec

one_network = pytest.mark.parametrize("built", ["two_pathways"], indirect=True)


@pytest.fixture
def bundle(built, tmp_path):
    return write_bundle_of(built, tmp_path / "b.gcis")


def write_bundle_of(built, folder, **preprocess):
    """Write the conformance network as a bundle at 7.5 mm, so that a phantom is one window without ties."""
    roi = built.case.image.shape[2:]
    prompts = [f"structure {i}" for i in range(built.case.prompts)]
    folder.mkdir()
    graph, entry = write_graph(folder, built.model, weights_dtype="float32")
    manifest = Manifest(
        name="agreement", created="2026-01-01T00:00:00Z", notice="",
        preprocess=PreprocessSpec(orientation="RAS", spacing=(7.5, 7.5, 7.5), **preprocess),
        window=WindowSpec(patch_size=roi), labels=make_labels(prompts, [i + 3 for i in range(len(prompts))]),
        pathways=tuple(
            PromptPathway(prompt=p, path_selection=c.one_based, router_gaps=None)
            for p, c in zip(prompts, built.case.static.pathways, strict=True)
        ),
        input=Tensor(name="image", shape=(1, 1, *roi)),
        output=Tensor(name="margins", shape=(1, len(prompts), *roi)),
        graphs=(graph,), engines=(), files=(entry,), parity=(),
        provenance=Provenance(checkpoint_sha256="0" * 64, text_model="", text_weights=""), versions={},
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


@pytest.fixture(scope="module")
def phantom():
    found = make_phantom(7, spacing=(4.0, 4.0, 6.0))
    return Volume.from_array(found.ct, affine=found.affine)


@one_network
def test_labels_are_those_of_pytorch_and_monai(built, bundle, phantom, tmp_path, monkeypatch):
    """Compare anisotropic, flipped, permuted, oblique, tilted and thick-slice images through the command.

    Other tests cover the export. ONNX Runtime only: with random weights OpenVINO's rounding decides
    1 in 10000 voxels (records have both).
    """
    found = type("Checkpoint", (), {"sha256": "0" * 64})
    monkeypatch.setattr(agreement.checkpoints, "load", lambda path: found)
    monkeypatch.setattr(agreement, "export", lambda request: type("Exported", (), {"folder": bundle}))
    monkeypatch.setattr(agreement, "static_network", lambda found: built.case.static)
    arguments = ["agreement", "--checkpoint", "c", "--engine", "onnx", "-o", str(tmp_path / "out")]
    chains = (("flipped", "permuted"), ("oblique", "gantry tilt", "thick slices"))
    for number, chain in enumerate(chains):
        volume = phantom
        for variant in chain:
            volume = VARIANTS[variant](volume)
        write_volume(tmp_path / f"{number}.nii.gz", volume)
        arguments += ["--image", str(tmp_path / f"{number}.nii.gz")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "out").iterdir()
    record = json.loads(path.read_text())
    assert path.name.startswith("agreement_")
    assert str(tmp_path) not in path.read_text()
    found = [(row["image"], row["restore"]) for row in record["rows"]]
    assert found == [(f"{i}.nii.gz", restore) for i in range(2) for restore in get_args(Restore)]
    assert record["lowest"] == min(row["equal"] for row in record["rows"])
    low = [(row["image"], row["restore"], row["equal"]) for row in record["rows"] if row["equal"] < WANTED]
    assert low == []
    for row in record["rows"]:
        assert 0.02 < row["labelled_voxels"] / row["voxels"] < 0.98  # the test can see


@one_network
def test_a_foreground_rule_gives_the_reference_pipelines_labels(built, phantom, tmp_path):
    """A flipped body off centre in air: windows lie on the foreground, and only foreground is labelled."""
    air = np.pad(phantom.array, ((40, 8), (5, 20), (3, 12)), constant_values=-1000)
    volume = VARIANTS["flipped"](Volume(array=air, affine=phantom.affine))
    write_volume(tmp_path / "ct.nii.gz", volume)
    folder = write_bundle_of(built, tmp_path / "rule.gcis", foreground=Foreground(margin=1))
    with comparison(built.case.static, folder, engines=("onnx",)) as compare_file:
        rows = compare_file(tmp_path / "ct.nii.gz")
    assert [row["restore"] for row in rows if row["equal"] >= WANTED] == [*get_args(Restore)]
    assert all(0.02 < row["labelled_voxels"] / air.size < 0.6 for row in rows)


@one_network
def test_a_reference_with_other_answers_is_seen(built, bundle, phantom, tmp_path):
    small = Volume(array=phantom.array[:40, :40, :30], affine=phantom.affine)
    write_volume(tmp_path / "ct.nii.gz", small)
    with comparison(
        lambda window: torch.ones(1, built.case.prompts, *window.shape[2:]), bundle, engines=("onnx",)
    ) as compare_file:
        assert max(row["equal"] for row in compare_file(tmp_path / "ct.nii.gz")) < WANTED


def test_the_command_brings_phantoms_and_variants(phantom, tmp_path, monkeypatch):
    """Check the list of compared files without comparing them."""
    monkeypatch.setattr(agreement, "make_phantom", lambda seed, spacing: type(
        "Phantom", (), {"ct": phantom.array, "affine": phantom.affine}
    ))  # fmt: skip
    image = tmp_path / "a.nii.gz"
    write_volume(image, phantom)
    found = [row[:2] for row in agreement._inputs([image], [7], True, tmp_path)]
    assert found[:2] == [("a.nii.gz", "as stored"), ("phantom 7", "as stored")]
    assert found[2:] == [(name, variant) for name in ("phantom 7", "a.nii.gz") for variant in VARIANTS]


def test_variants_are_the_same_patient_stored_or_lying_otherwise(phantom):
    value, place = phantom.array[10, 20, 5], phantom.affine @ [10, 20, 5, 1]
    size = phantom.shape
    for name, index in (("flipped", (size[0] - 11, 20, size[2] - 6)), ("permuted", (5, 10, 20))):
        moved = VARIANTS[name](phantom)
        assert moved.array[index] == value
        np.testing.assert_allclose(moved.affine @ [*index, 1], place, atol=1e-9)
    oblique = VARIANTS["oblique"](phantom)
    assert oblique.spacing == pytest.approx(phantom.spacing)
    assert np.count_nonzero(np.abs(oblique.affine[:3, :3]) > 0.1) == 9
    assert VARIANTS["thick slices"](phantom).spacing[2] == pytest.approx(3 * phantom.spacing[2])
    tilted = VARIANTS["gantry tilt"](phantom).affine[:3, :3]
    assert abs(tilted[:, 1] @ tilted[:, 2]) > 0.5
