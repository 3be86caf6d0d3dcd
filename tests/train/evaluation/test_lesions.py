"""Test the counts of detected lesions and false positives."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from gcis_train.cli.main import main
from gcis_train.evaluation.lesions import Detection, detect, totals

SHAPE = (12, 12, 12)
LESION = "soft tissue sarcoma"


def mask(*boxes: tuple[int, int]) -> np.ndarray:
    """Return a mask of cubes [first, last) on the diagonal."""
    result = np.zeros(SHAPE, bool)
    for first, last in boxes:
        result[first:last, first:last, first:last] = True
    return result


@pytest.mark.parametrize(
    ("predicted", "truth", "counts"),
    [
        (mask(), mask(), (0, 0, 0)),
        (mask(), mask((0, 3), (6, 9)), (2, 0, 0)),
        (mask((1, 2)), mask((0, 3), (6, 9)), (2, 1, 0)),  # one voxel of overlap is enough
        (mask((0, 9)), mask((0, 3), (6, 9)), (2, 2, 0)),  # one component may detect several lesions
        (mask((0, 1), (2, 3)), mask((0, 3)), (1, 1, 0)),  # two components of one lesion: none is false
        (mask((5, 6), (8, 9)), mask((0, 3)), (1, 0, 2)),
        (mask((5, 6)), mask(), (0, 0, 1)),
        (mask((0, 1), (1, 2)), mask(), (0, 0, 1)),  # voxels that share a corner are connected
        (mask(), mask((0, 3), (3, 6)), (1, 0, 0)),
    ],
)
def test_counts(predicted: np.ndarray, truth: np.ndarray, counts: tuple[int, int, int]) -> None:
    lesions, detected, false = counts
    assert detect(predicted, truth) == Detection(lesions=lesions, detected=detected, false_positives=false)


def test_totals_are_over_lesions_and_over_volumes() -> None:
    volumes = [
        Detection(lesions=3, detected=1, false_positives=2),
        Detection(lesions=1, detected=1, false_positives=0),
        Detection(lesions=0, detected=0, false_positives=1),
        Detection(lesions=0, detected=0, false_positives=0),
    ]
    result = totals(volumes)
    assert (result["sensitivity"], result["false_positives_per_volume"]) == (0.5, 0.75)
    assert (result["volumes_without_lesion"], result["false_positives_per_volume_without_lesion"]) == (2, 0.5)
    assert totals(volumes[2:])["sensitivity"] is None
    assert totals(volumes[:2])["false_positives_per_volume_without_lesion"] is None


def save(path: Path, voxels: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.eye(4)), path)


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """Write a case with two lesions, one without, and label maps that find one lesion and one that is not."""
    truths = {"a": mask((0, 3), (6, 9)), "b": mask()}
    found = {"a": mask((1, 2)), "b": mask((5, 6))}
    (tmp_path / "predicted").mkdir()
    rows = []
    for name, truth in truths.items():
        save(tmp_path / f"{name}.nii.gz", np.zeros(SHAPE))
        save(tmp_path / f"{name}_label.nii.gz", truth)
        save(tmp_path / "predicted" / f"{name}.nii.gz", found[name])
        row = {"image": f"{name}.nii.gz", "label": f"{name}_label.nii.gz", "label_value": 1}
        rows.append({**row, "prompt": LESION})
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": [], "validation": rows}))
    return path


def run(datalist: Path, *options: str) -> tuple[int, str]:
    folder = datalist.parent
    arguments = ["evaluate", "--predictions", str(folder / "predicted"), "--labels", f"{LESION}=1"]
    arguments += ["--datalist", str(datalist), "--worst", "0", "-o", str(folder / "out"), *options]
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output + result.stderr


def test_the_command_reports_sensitivity_and_false_positives(datalist: Path) -> None:
    code, printed = run(datalist, "--lesion", LESION)
    assert code == 0, printed
    assert f"| {LESION} | 2 | 2 | 1 | 0.50 | 0.50 | 1 | 1.00 |" in printed
    out = datalist.parent / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["lesions"][LESION]["detected"] == 1 and "sensitivity" in summary["definitions"]
    rows = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    assert [(r["case"], r["lesions"], r["detected"], r["false_positives"]) for r in rows] == [
        ("a", "2", "1", "0"), ("b", "0", "0", "1"),
    ]  # fmt: skip
    assert "- detected: a lesion" in (out / "summary.md").read_text()


def test_without_the_option_files_have_no_counts(datalist: Path) -> None:
    code, printed = run(datalist)
    assert code == 0 and "lesions" not in printed
    assert "lesions" not in (datalist.parent / "out" / "scores.csv").read_text()
    assert "lesions" not in json.loads((datalist.parent / "out" / "summary.json").read_text())


def test_a_lesion_that_no_case_has_is_an_error(datalist: Path) -> None:
    code, printed = run(datalist, "--lesion", "tumour")
    assert code == 2 and "received 'tumour'" in printed and f"'{LESION}'" in printed
