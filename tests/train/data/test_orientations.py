"""Test that images of several orientations are trained only with an orientation, or as published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from gcis_runtime.errors import DataError
from gcis_runtime.spec import PreprocessSpec
from gcis_train.cli.main import main
from gcis_train.data.orientations import describe_mixture
from gcis_train.options.recipe import is_published
from gcis_train.options.settings import resolve_options
from gcis_train.training.material import read_cases
from tests.support.training_values import ball_case, options, write_cases, write_nifti

LPS = np.diag([-2.0, -2.0, 2.0, 1.0])
AS_FILE = PreprocessSpec(orientation=None, spacing=(2.0, 2.0, 2.0))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Write two training cases in RAS and a validation case in LPS."""
    path = write_cases(tmp_path, 2, validation=1)
    for name, array in (("ct2", ball_case(seed=2)[0]), ("seg2", ball_case()[1])):
        write_nifti(tmp_path / f"{name}.nii.gz", array[::-1, ::-1].copy(), LPS)
    return path


def test_a_mixture_is_refused_unless_an_orientation_is_set(mixed: Path) -> None:
    with pytest.raises(DataError, match="different orientations") as refused:
        read_cases(mixed, options(preprocess=AS_FILE))
    text = str(refused.value)
    assert "RAS in 2 (such as" in text and "ct0.nii.gz" in text
    assert "LPS in 1 (such as" in text and "ct2.nii.gz" in text and "--orientation RAS" in text
    assert len(read_cases(mixed, options()).training) == 2


def test_only_the_rows_of_the_run_count(mixed: Path) -> None:
    rows = json.loads(mixed.read_text())
    rows["validation"] = [{**row, "prompt": "another"} for row in rows["validation"]]
    mixed.write_text(json.dumps(rows))
    assert read_cases(mixed, options(preprocess=AS_FILE), prompts=("left ball",)).training


def test_the_published_recipe_reports_a_mixture(mixed: Path) -> None:
    notes: list[str] = []
    published = resolve_options({"published": True}, device=torch.device("cpu"))
    assert is_published(published) and not is_published(options(preprocess=AS_FILE))
    assert read_cases(mixed, published, notify=notes.append).validation
    assert len(notes) == 1 and "RAS in 2" in notes[0] and "LPS in 1" in notes[0]


def test_an_unreadable_image_is_left_to_its_case(mixed: Path) -> None:
    (mixed.parent / "ct2.nii.gz").write_bytes(b"not an image")
    assert read_cases(mixed, options(preprocess=AS_FILE)).validation


@pytest.mark.parametrize("command", ["pretrain", "warmstart"])
def test_the_commands_refuse_before_they_write(mixed: Path, tmp_path: Path, command: str) -> None:
    run = tmp_path / "run"
    flags = ["--feature-size", "12", "--patch-size", "64", "--spacing", "2", "--clip-weights", "random"]
    done = CliRunner().invoke(main, [command, "--datalist", str(mixed), "--run-dir", str(run), *flags])
    assert done.exit_code != 0 and not run.exists()
    assert "Traceback" not in done.stderr
    assert "different orientations" in str(done.exception) + done.output + done.stderr


def test_one_orientation_is_no_mixture() -> None:
    assert describe_mixture([("RAS", "a"), ("RAS", "b")]) is None and describe_mixture([]) is None
