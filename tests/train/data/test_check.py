"""Test that every check detects its problem and accepts a valid datalist."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from gcis_train.cli.main import main
from gcis_train.data.check import CaseFacts, Problem, check_datalist
from gcis_train.data.check_report import spread, summary
from tests.support.training_values import PROMPTS, RAS, ball_case, write_cases, write_nifti

LAS = np.diag([-2.0, 2.0, 2.0, 1.0])
RGB = [("R", "u1"), ("G", "u1"), ("B", "u1")]
Change = Callable[[Path, dict[str, Any]], None]


def _run(*args: object) -> Result:
    return CliRunner().invoke(main, ["datalist", "check", *map(str, args)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write three training cases and one validation case; the left ball is on the patient's left."""
    rows = json.loads(write_cases(tmp_path, 3, validation=1).read_text())
    for row in rows["training"] + rows["validation"]:  # write_cases puts value 1 at high X, the right
        row["label_value"] = 3 - row["label_value"]
    for index in range(4):
        write_nifti(tmp_path / f"ct{index}.nii.gz", _hu(index))
    return _save(tmp_path, rows)


def _hu(seed: int) -> NDArray[np.int16]:
    """Return an image with air, bone, and soft tissue in most voxels."""
    hu = ball_case(seed=seed)[0] + 200
    hu[0, 0, 0], hu[1, 0, 0] = -1000, 1500
    return hu


def _save(folder: Path, rows: dict[str, Any]) -> Path:
    path = folder / "datalist.json"
    path.write_text(json.dumps(rows))
    return path


def _changed(path: Path, change: Change) -> tuple[list[CaseFacts], list[Problem]]:
    rows = json.loads(path.read_text())
    change(path.parent, rows)
    return check_datalist(_save(path.parent, rows))


def test_a_sound_list_has_no_problem(path: Path) -> None:
    facts, problems = check_datalist(path)
    assert problems == [] and len(facts) == 4
    result = summary(facts, problems)
    assert result["cases"] == {"training": 3, "validation": 1} and result["orientation"] == {"RAS": 4}
    assert result["spacing_mm"] == [[2, 2, 2]] * 2 and result["shape"] == [[40, 36, 32]] * 2
    assert result["hu"][1] == 1500 and result["hu"][0] <= -1000
    ball = result["structures"]["left ball"]
    voxels = (ball_case()[1] == 2).sum()
    assert (ball["training"], ball["validation"], ball["empty"]) == (3, 1, 0)
    assert ball["ml"] == [pytest.approx(voxels * 8 / 1000)] * 3


def _unreadable_image(folder: Path, _: dict[str, Any]) -> None:
    (folder / "ct1.nii.gz").write_bytes(b"not an image")


def _truncated_label(folder: Path, _: dict[str, Any]) -> None:
    data = (folder / "seg1.nii.gz").read_bytes()
    (folder / "seg1.nii.gz").write_bytes(data[: len(data) // 2])


def _other_shape(folder: Path, _: dict[str, Any]) -> None:
    write_nifti(folder / "seg1.nii.gz", ball_case()[1][:-1])


def _other_affine(folder: Path, _: dict[str, Any]) -> None:
    moved = RAS.copy()
    moved[2, 3] = 5
    write_nifti(folder / "seg1.nii.gz", ball_case()[1], moved)


def _four_axes(folder: Path, _: dict[str, Any]) -> None:
    write_nifti(folder / "ct1.nii.gz", np.zeros((8, 8, 8, 2), np.int16))


def _not_finite(folder: Path, _: dict[str, Any]) -> None:
    hu = ball_case(seed=1)[0].astype(np.float32)
    hu[3, 3, 3] = np.nan
    write_nifti(folder / "ct1.nii.gz", hu)


def _offset(folder: Path, _: dict[str, Any]) -> None:
    write_nifti(folder / "ct1.nii.gz", ball_case(seed=1)[0] + np.int16(1024))


def _fractions(folder: Path, _: dict[str, Any]) -> None:
    write_nifti(folder / "seg1.nii.gz", ball_case()[1] * np.float32(0.9))


def _colour_image(folder: Path, _: dict[str, Any]) -> None:
    write_nifti(folder / "ct1.nii.gz", np.zeros((40, 36, 32), RGB))


def _colour_label(folder: Path, _: dict[str, Any]) -> None:
    write_nifti(folder / "seg1.nii.gz", np.zeros((40, 36, 32), RGB))


def _complex_image(folder: Path, _: dict[str, Any]) -> None:
    write_nifti(folder / "ct1.nii.gz", ball_case(seed=1)[0].astype(np.complex64))


def _complex_label(folder: Path, _: dict[str, Any]) -> None:
    write_nifti(folder / "seg1.nii.gz", ball_case()[1].astype(np.complex64))


def _nan_label(folder: Path, _: dict[str, Any]) -> None:
    write_nifti(folder / "seg1.nii.gz", np.where(ball_case()[1], ball_case()[1], np.float32(np.nan)))


def _mirrored(folder: Path, _: dict[str, Any]) -> None:
    write_nifti(folder / "seg1.nii.gz", np.where(ball_case()[1] > 0, 3 - ball_case()[1], 0).astype(np.uint8))


def _same_file(_: Path, rows: dict[str, Any]) -> None:
    rows["validation"].append({**rows["training"][0], "image": "./ct0.nii.gz"})


def _copy_in_another_orientation(folder: Path, _: dict[str, Any]) -> None:
    write_nifti(folder / "ct3.nii.gz", _hu(0)[::-1].astype(np.float32), LAS)
    write_nifti(folder / "seg3.nii.gz", ball_case()[1][::-1].copy(), LAS)


def _copy_in_training(folder: Path, _: dict[str, Any]) -> None:
    (folder / "ct1.nii.gz").write_bytes((folder / "ct2.nii.gz").read_bytes())


def _only_validated(_: Path, rows: dict[str, Any]) -> None:
    rows["training"] = [r for r in rows["training"] if r["prompt"] == PROMPTS[0]]


def _wrong_value(_: Path, rows: dict[str, Any]) -> None:
    for row in rows["training"] + rows["validation"]:
        row["label_value"] = {1: 1, 2: 5}[row["label_value"]]


def _one_empty(folder: Path, _: dict[str, Any]) -> None:
    labels = ball_case()[1]
    labels[labels == 1] = 0
    write_nifti(folder / "seg1.nii.gz", labels)


def _mixed_axes(folder: Path, _: dict[str, Any]) -> None:
    for name, array in (("ct1", ball_case(seed=1)[0]), ("seg1", ball_case()[1])):
        write_nifti(folder / f"{name}.nii.gz", array[::-1].copy(), LAS)


@pytest.mark.parametrize(
    ("change", "level", "where", "message"),
    [
        (_unreadable_image, "error", "training case ct1", "ct1.nii.gz is not a NIfTI file"),
        (_truncated_label, "error", "training case ct1", "seg1.nii.gz is damaged or truncated"),
        (_other_shape, "error", "training case ct1", "seg1.nii.gz has a different shape from the image"),
        (_other_affine, "error", "training case ct1", "seg1.nii.gz is on a different grid from the image"),
        (_four_axes, "error", "training case ct1", "not three-dimensional"),
        (_not_finite, "error", "training case ct1", "not finite"),
        (_offset, "warning", "training case ct1", "no value below 0"),
        (_fractions, "error", "training case ct1", "values between whole numbers"),
        (_colour_image, "error", "training case ct1", "ct1.nii.gz: the voxels are not real numbers"),
        (_colour_label, "error", "training case ct1", "seg1.nii.gz: the voxels are not real numbers"),
        (_complex_image, "error", "training case ct1", "ct1.nii.gz: the voxels are not real numbers"),
        (_complex_label, "error", "training case ct1", "seg1.nii.gz: the voxels are not real numbers"),
        (_nan_label, "error", "training case ct1", "the label map has values that are not finite"),
        (_mirrored, "warning", "training case ct1", "'left ball' is to the right of 'right ball'"),
        (_same_file, "error", "training ct0 and validation ct0", "are the same image"),
        (_copy_in_another_orientation, "error", "training ct0 and validation ct3", "would score training"),
        (_copy_in_training, "warning", "training ct1 and training ct2", "are the same image"),
        (_only_validated, "warning", "'right ball'", "validation rows but no training row"),
        (_wrong_value, "error", "'left ball'", "no row has a voxel"),
        (_wrong_value, "warning", "label value 2", "not used by any row; 4 cases contain it"),
        (_one_empty, "warning", "'right ball'", "1 of 4 rows have no voxel"),
        (_mixed_axes, "warning", "orientation", "ct1.nii.gz): train with --orientation RAS"),
    ],
)  # fmt: skip
def test_each_check_fires(path: Path, change: Change, level: str, where: str, message: str) -> None:
    facts, problems = _changed(path, change)
    assert [p for p in problems if p.level == level and p.where == where and message in p.message]
    result = summary(facts, problems)
    assert result["errors"] == sum(p.level == "error" for p in problems)
    result = _run(path, "--no-picture")
    assert result.exit_code == (2 if any(p.level == "error" for p in problems) else 0), result.output
    assert f"{level}: {where}: " in result.stderr and "Traceback" not in result.stderr
    counts = [sum(p.level == kind for p in problems) for kind in ("error", "warning")]
    assert result.stderr.endswith(f"{counts[0]} errors, {counts[1]} warnings\n")


def test_the_other_cases_are_checked_when_one_cannot_be_read(path: Path) -> None:
    """Label maps that were saved as floats or with a scale factor are valid too."""
    _colour_label(path.parent, {})
    write_nifti(path.parent / "seg2.nii.gz", ball_case()[1] * np.float32(0.9999999))
    scaled = nib.Nifti1Image(ball_case()[1].astype(np.float64), RAS)
    scaled.set_data_dtype(np.int16)
    nib.save(scaled, path.parent / "seg0.nii.gz")
    facts, problems = check_datalist(path)
    assert [f.broken for f in facts] == [False, True, False, False] and len(problems) == 1
    ml = (ball_case()[1] == 2).sum() * 8 / 1000
    assert all(f.volumes["left ball"] == pytest.approx(ml) for f in facts if not f.broken)


def test_headers_alone(path: Path) -> None:
    for change in (_other_affine, _offset):
        change(path.parent, {})
        _, problems = check_datalist(path, headers_only=True)
        assert len(problems) == (1 if change is _other_affine else 0)
        write_nifti(path.parent / "seg1.nii.gz", ball_case()[1])


def test_a_list_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    result = _run(tmp_path / "none.json")
    assert (
        result.exit_code == 2
        and result.stderr.count("\n") == 1
        and "none.json cannot be read" in result.stderr
    )


def test_the_sheet_shows_usable_cases_with_their_labels(path: Path, tmp_path: Path) -> None:
    (tmp_path / "ct1.nii.gz").write_bytes(b"not an image")
    result = _run(path, "--pictures", "2", "--json")
    assert result.exit_code == 2
    report = json.loads(result.stdout)
    sheet = tmp_path / "datalist_check.png"
    assert report["picture"] == str(sheet) and report["errors"] == 1
    pixels = np.asarray(Image.open(sheet)).astype(int)
    halves = np.split(pixels, 2)
    assert pixels.shape[0] % 2 == 0  # two cases of one size, one below the other
    for half in halves:
        assert (half.max(axis=2) - half.min(axis=2) > 60).sum() > 500  # the coloured balls
    assert spread(check_datalist(path)[0], 2) == [0, 3]


def test_the_sheet_can_be_placed_or_left_out(path: Path, tmp_path: Path) -> None:
    assert _run(path, "--picture", tmp_path / "x" / "sheet.png", "--pictures", "1").exit_code == 0
    assert (tmp_path / "x" / "sheet.png").is_file() and not (tmp_path / "datalist_check.png").exists()
    assert _run(path, "--no-picture").exit_code == 0
    assert not (tmp_path / "datalist_check.png").exists()
    (tmp_path / "file").touch()
    result = _run(path, "--picture", tmp_path / "file" / "sheet.png")
    assert result.exit_code == 2 and "cannot be written" in result.stderr and "1/4" not in result.stderr
