"""Test the ceiling of a voxel size: 1 on the grid of the labels, lower on coarser grids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gcis_train.cli.main import main
from tests.support.training_values import ball_case, write_cases, write_nifti


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """Write a case with two balls in 2 mm voxels, stored flipped."""
    path = write_cases(tmp_path, 0, validation=1)
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    for name, array in zip(("ct0", "seg0"), ball_case(), strict=True):
        write_nifti(tmp_path / f"{name}.nii.gz", array, affine)
    return path


def test_coarser_grids_hold_less(datalist: Path, tmp_path: Path) -> None:
    arguments = ["ceiling", "--datalist", str(datalist), "-o", str(tmp_path / "c.json")]
    for spacing in ("2", "3,3,4", "6"):
        arguments += ["--spacing", spacing]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "c.json").read_text())
    grids = result["grids"]
    assert list(grids) == ["2 mm", "3,3,4 mm", "6 mm"] and result["orientation"] == "RAS"
    for way in ("nearest", "smooth"):
        fine, middle, coarse = (grids[name][way]["mean_dice"] for name in grids)
        assert fine == 1.0
        assert 1 > middle > coarse > 0.5
    assert grids["3,3,4 mm"]["smooth"]["mean_dice"] > grids["3,3,4 mm"]["nearest"]["mean_dice"]
    assert grids["6 mm"]["nearest"]["prompts"]["left ball"]["cases"] == 1
    assert "| left ball | 1 | 1.000 | 1.000 |" in done.output
