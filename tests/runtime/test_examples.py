"""Test that the examples in examples/python run unchanged."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.support.bundles_and_images import write_ct

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs an example as a program and returns its output and exit code."""

    def call(name: str, *arguments: object) -> tuple[str, int]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
        return capsys.readouterr().out, code

    return call


def test_every_example_has_a_test():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {"array.py", "folder.py", "nibabel_image.py", "simpleitk_image.py"}


def test_an_array(run, make_bundle):
    printed, code = run("array.py", make_bundle())
    assert code == 0
    assert "bone: " in printed and "mL, value 1" in printed


@pytest.mark.parametrize("name", ["nibabel_image.py", "simpleitk_image.py"])
def test_an_image_of_a_library(run, make_bundle, ct, tmp_path, name):
    assert run(name, make_bundle(), ct, tmp_path / "seg.nii.gz") == ("", 0)
    before, after = nib.load(ct), nib.load(tmp_path / "seg.nii.gz")
    assert after.shape == before.shape
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-5)
    assert set(np.unique(np.asarray(after.dataobj))) == {0, 1, 2}


def test_a_folder_goes_on_after_a_failure(run, make_bundle, ct, tmp_path):
    images, out = tmp_path / "in", tmp_path / "out"
    images.mkdir()
    shutil.copy(ct, images / "a.nii.gz")
    (images / "b.nii.gz").write_text("no image")
    write_ct(images / "c.nii.gz", seed=1)
    printed, code = run("folder.py", make_bundle(), images, out)
    assert code == 1
    assert [line.partition(": ")[0] for line in printed.splitlines()] == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert "is not a NIfTI file" in printed
    assert sorted(path.name for path in out.iterdir()) == ["a.nii.gz", "c.nii.gz"]
