"""Test a MONAI bundle with MONAI's own tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser, verify_metadata, verify_net_in_out
from monai.transforms import LoadImage

from gcis_export.targets.ct_reader import CtReader
from gcis_export.targets.monai_bundle import write_monai_bundle
from gcis_runtime import Segmenter, read_volume
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.errors import GcisError, OutputError
from gcis_runtime.spec import Foreground, PreprocessSpec, WindowSpec
from tests.support.bundles_and_images import set_pixdim
from tests.support.export_cases import cheap_bundle

SCHEMA = Path(__file__).parents[2] / "data" / "monai_metadata.schema.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a bundle and the MONAI bundle written from it."""
    home = tmp_path_factory.mktemp("monai")
    window = WindowSpec(patch_size=(64, 64, 64), overlap=0.25)
    bundle = open_bundle(cheap_bundle(home / "b.gcis", name="organs", values=(3, 300), window=window))
    return bundle, write_monai_bundle(bundle, home / "organs")


@pytest.fixture
def enter(monkeypatch):
    """Change to the folder of a MONAI bundle, with its `scripts` importable, as MONAI does."""

    def into(folder):
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))
        for name in [n for n in sys.modules if n.split(".")[0] == "scripts"]:
            monkeypatch.delitem(sys.modules, name)
        return folder

    yield into
    for name in [n for n in sys.modules if n.split(".")[0] == "scripts"]:
        del sys.modules[name]


@pytest.fixture
def inside(made, enter):
    return enter(made[1])


def test_the_folder_is_laid_out_as_monai_asks(made):
    bundle, folder = made
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        "configs/inference.json",
        "configs/metadata.json",
        "docs/README.md",
        "models/model.onnx",
        "scripts/__init__.py",
        "scripts/ct_reader.py",
        "scripts/onnx_network.py",
    ]
    assert (folder / "models" / "model.onnx").read_bytes() == bundle.model_file.read_bytes()
    assert bundle.manifest.notice in (folder / "docs" / "README.md").read_text()


def test_monai_verifies_the_metadata(inside, tmp_path):
    """MONAI downloads the schema that the metadata names unless the file exists, so the test provides it."""
    schema = tmp_path / "schema.json"
    schema.write_bytes(SCHEMA.read_bytes())
    verify_metadata(meta_file="configs/metadata.json", filepath=schema)
    content = json.loads((inside / "configs" / "metadata.json").read_text())
    del content["network_data_format"]["outputs"]["pred"]["channel_def"]
    (tmp_path / "broken.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=schema)


def test_monai_verifies_the_network(inside):
    files = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json", "device": "cpu"}
    verify_net_in_out("network_def", **files)
    wrong = {"_meta_#network_data_format#outputs#pred#num_channels": 3}
    with pytest.raises(ValueError, match="doesn't match: `3`"):
        verify_net_in_out("network_def", **files, **wrong)


def test_monai_runs_it_and_gives_what_gcis_run_gives(made, tmp_path):
    bundle, folder = made
    rng = np.random.default_rng(1)
    coarse = rng.normal(100, 250, (5, 5, 4))
    image = np.kron(coarse, np.ones((9, 9, 9))).astype(np.int16)  # blocks of 27 mm: smooth enough to compare
    affine = np.array([[-3.0, 0, 0, 40], [0, 0, 3.0, -20], [0, 3.0, 0, 5], [0, 0, 0, 1]])
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "in" / "ct.nii.gz")
    hidden = "import sys; sys.modules.update(dict.fromkeys(('gcis_runtime', 'gcis_train', 'gcis_export')))"
    program = "import runpy; runpy.run_module('monai.bundle', run_name='__main__', alter_sys=True)"
    places = ("--dataset_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out"))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{hidden}; {program}",
            "run",
            "--config_file",
            "configs/inference.json",
            *places,
        ],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    theirs = nib.load(tmp_path / "out" / "ct_seg.nii.gz")
    labels = np.asarray(theirs.dataobj).squeeze()
    with Segmenter.open(bundle.folder, engine="onnx") as segmenter:
        ours = segmenter.segment(read_volume(tmp_path / "in" / "ct.nii.gz")).labels
    np.testing.assert_allclose(theirs.affine, affine, atol=1e-4)
    assert labels.shape == ours.shape and set(np.unique(labels)) == {0, 3, 300} == set(np.unique(ours))
    assert np.mean(labels == ours) > 0.999


def test_a_foreground_rule_is_cropped_and_undone(tmp_path, enter):
    """Blocks off centre in air: the labels equal those of gcis-run, and windows lie on the crop."""
    spec = PreprocessSpec(orientation="RAS", spacing=(2.0, 2.0, 2.0), foreground=Foreground(margin=2))
    window = WindowSpec(patch_size=(64, 64, 64), overlap=0.25)
    bundle = open_bundle(cheap_bundle(tmp_path / "b.gcis", preprocess=spec, window=window))
    folder = write_monai_bundle(bundle, tmp_path / "cropped")
    image = np.full((70, 60, 50), -1000, np.int16)
    image[40:67, 3:21, 10:37] = np.kron(
        np.random.default_rng(2).normal(100, 250, (3, 2, 3)), np.ones((9, 9, 9))
    )
    (tmp_path / "in").mkdir()
    placed = nib.Nifti1Image(image[..., None], np.diag([-3.0, -3.1, 3.2, 1]))
    placed.set_qform(None, 0)
    nib.save(placed, tmp_path / "in" / "ct.nii.gz")
    set_pixdim(tmp_path / "in" / "ct.nii.gz", 1)  # gcis-run takes the voxel size from the affine
    enter(folder)
    parser = ConfigParser()
    parser.read_config("configs/inference.json")
    parser["dataset_dir"], parser["output_dir"] = str(tmp_path / "in"), str(tmp_path / "out")
    parser["device"] = "$torch.device('cpu')"
    evaluator = parser.get_parsed_content("evaluator")
    evaluator.run()
    with Segmenter.open(bundle.folder, engine="onnx") as segmenter:
        ours = segmenter.segment(read_volume(tmp_path / "in" / "ct.nii.gz"))
    labels = np.asarray(nib.load(tmp_path / "out" / "ct_seg.nii.gz").dataobj).squeeze()
    assert labels.shape == ours.labels.shape and set(np.unique(labels)) == {0, 1, 2}
    assert np.mean(labels == ours.labels) > 0.9999
    box = ours.crop["box"]
    seen = parser.get_parsed_content("dataset")[0]["image"].shape[1:]
    assert list(seen) == [b - a for a, b in box] and ours.crop["windows_saved"] > 0


def _load(path):
    return LoadImage(reader=CtReader, ensure_channel_first=True)(path)


@pytest.mark.parametrize("pixdim", [None, 1.0])
@pytest.mark.parametrize("axes", [3, 4])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_its_reader_gives_the_voxels_and_the_grid_of_gcis_run(tmp_path, pixdim, axes, dtype):
    rng = np.random.default_rng(3)
    hu = rng.integers(-1000, 1000, (6, 5, 4, 1)[:axes]).astype(np.float64)
    affine = np.array([[-1.5, 0, 0.2, 40], [0.1, 0, 2.5, -20], [0, 3.0, 0, 5], [0, 0, 0, 1]])
    image = nib.Nifti1Image(hu, affine)
    image.set_data_dtype(dtype)  # a slope and an intercept but for float32
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "ct.nii.gz")
    if pixdim is not None:
        set_pixdim(tmp_path / "ct.nii.gz", pixdim)
    ours, theirs = read_volume(tmp_path / "ct.nii.gz"), _load(tmp_path / "ct.nii.gz")
    np.testing.assert_allclose(np.asarray(theirs[0]), ours.array, atol=1e-3)
    np.testing.assert_allclose(np.asarray(theirs.affine), ours.affine)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "not real numbers"),
        (np.zeros((4, 4, 4), np.complex64), "not real numbers"),
        (np.full((4, 4, 4), np.nan, np.float32), "64 of 64 voxels"),
        (np.zeros((4, 4, 4, 2), np.int16), "not three-dimensional"),
        (np.zeros((4, 4), np.int16), "not three-dimensional"),
    ],
    ids=["colour", "complex", "NaN", "two volumes", "flat"],
)
def test_its_reader_refuses_what_gcis_run_refuses(tmp_path, array, message):
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "ct.nii.gz")
    with pytest.raises(GcisError, match=message):
        read_volume(tmp_path / "ct.nii.gz")
    with pytest.raises(ValueError, match=message):
        _load(tmp_path / "ct.nii.gz")


def test_an_older_one_is_replaced_and_anything_else_is_not(made, tmp_path):
    bundle, _ = made
    folder = write_monai_bundle(bundle, tmp_path / "m")
    (folder / "stale.txt").touch()
    assert write_monai_bundle(bundle, folder) == folder and not (folder / "stale.txt").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(OutputError, match="is not a MONAI bundle"):
        write_monai_bundle(bundle, tmp_path / "photos")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is not a MONAI bundle"):
        write_monai_bundle(bundle, tmp_path / "file")
