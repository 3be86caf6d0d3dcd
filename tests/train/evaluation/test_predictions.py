"""Test label maps on disk: found by name, label values read from JSON, mismatches refused."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from gcis_runtime.errors import DataError, ImageError
from gcis_train.data.datalist import Case, Target
from gcis_train.evaluation.evaluate import score_case
from gcis_train.evaluation.predictions import find, folder_source, read_values
from tests.support.training_values import RAS, ball_case, write_nifti

REPORT = {"structures": [{"value": 4, "name": "left ball", "prompt": "left ball", "voxels": 3}]}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    hu, labels = ball_case()
    (tmp_path / "data").mkdir()
    image = write_nifti(tmp_path / "data" / "ct7.nii.gz", hu)
    label = write_nifti(tmp_path / "data" / "seg7.nii.gz", labels)
    return Case(image=image, targets=(Target(prompt="left ball", labels=(label,), values=(1,)),))


def write_map(folder: Path, name: str, *, report: dict | None = REPORT, dtype: type = np.uint8) -> Path:
    folder.mkdir(exist_ok=True)
    if report is not None:
        (folder / f"{name.removesuffix('.nii.gz')}.json").write_text(json.dumps(report))
    return write_nifti(folder / name, (ball_case()[1] * 4).astype(dtype))


def test_what_gcis_run_writes_is_found_and_read(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    path = write_map(folder, "ct7_seg.nii.gz")
    assert find(folder, case) == path
    source = folder_source(folder, [case])
    found = source.predict(case)
    assert found is not None and found.values == {"left ball": 4}
    assert np.array_equal(found.labels, ball_case()[1] * 4)
    assert source.notes == {"pipeline": "label maps on disk", "predictions": "out"}


def test_results_beside_the_images_are_not_mistaken_for_them(case: Case) -> None:
    folder = case.image.parent
    assert find(folder, case) is None
    assert find(folder, Case(image=case.image, targets=(), title="other/ct7")) is None
    path = write_map(folder, "ct7_seg.nii.gz")
    assert find(folder, case) == path


def test_cases_that_share_a_file_name_have_folders(case: Case, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    path = write_map(tmp_path / "out" / "s1", "ct7.nii.gz")
    titled = Case(image=case.image, targets=case.targets, title="s1/ct7")
    assert find(tmp_path / "out", titled) == path


def test_values_come_from_the_option_the_report_or_the_manifest(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_map(folder, "ct7.nii.gz", report=None, dtype=np.float32)
    with pytest.raises(DataError, match=r"label values of ct7.nii.gz are unknown"):
        folder_source(folder, [case]).predict(case)
    (folder / "manifest.json").write_text(json.dumps({"labels": REPORT["structures"], "name": "x"}))
    found = folder_source(folder, [case]).predict(case)
    assert found is not None and found.values == {"left ball": 4} and found.labels.dtype == np.uint8
    given = folder_source(folder, [case], labels="right ball = 8,left ball=4")
    assert given.prompts == {"right ball", "left ball"}
    mapping = tmp_path / "dataset.json"
    mapping.write_text(json.dumps({"labels": {"background": 0, "left ball": 4}}))
    assert read_values(str(mapping)) == {"left ball": 4}
    plain = tmp_path / "plain.json"
    plain.write_text('{"left ball": 4}')
    assert read_values(str(plain)) == {"left ball": 4}


@pytest.mark.parametrize(
    "text",
    [
        "left ball=x",
        "=3",
        "a=65536",
        '{"a": 65536}',
        '{"structures": [{"value": 1}]}',
        '{"a": 1.5}',
        "[1]",
        '{"labels": []}',
    ],
)
def test_a_mapping_that_says_nothing_is_refused(text: str, tmp_path: Path) -> None:
    if "=" not in text:
        path = tmp_path / "labels.json"
        path.write_text(text)
        text = str(path)
    with pytest.raises(DataError, match=r"label values|cannot be read"):
        read_values(text)


@pytest.mark.parametrize("kind", ["float", "scaled", "4-D", "upper case"])
def test_predictions_of_other_programs_are_read(case: Case, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "out"
    path = write_map(folder, "ct7_seg.nii.gz")
    labels = ball_case()[1] * 4
    if kind == "float":
        write_nifti(path, labels * np.float32(0.9999999))
    elif kind == "scaled":
        image = nib.Nifti1Image(labels.astype(np.float64), RAS)
        image.set_data_dtype(np.int16)
        nib.save(image, path)
    elif kind == "4-D":
        write_nifti(path, labels[..., None])
    else:
        path.rename(folder / "ct7_seg.NII.GZ")
    found = folder_source(folder, [case]).predict(case)
    assert found is not None and np.array_equal(found.labels, labels)
    assert [s.dice for s in score_case(case, found, tolerance=2.0)] == [1.0]


def test_a_missing_label_map_is_an_error_unless_allowed(case: Case, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="out is not a folder"):
        folder_source(tmp_path / "out", [case])
    (tmp_path / "out").mkdir()
    with pytest.raises(
        DataError, match=r"no label map for 1 of 1 cases, the first ct7;.*ct7_seg.nii.gz or ct7.nii.gz"
    ):
        folder_source(tmp_path / "out", [case])
    assert folder_source(tmp_path / "out", [case], allow_missing=True).predict(case) is None


def test_a_map_on_another_grid_or_between_values_is_refused(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    path = write_map(folder, "ct7_seg.nii.gz")
    moved = RAS.copy()
    moved[2, 3] = 4
    write_nifti(path, ball_case()[1], moved)
    with pytest.raises(ImageError, match="a different grid"):
        folder_source(folder, [case]).predict(case)
    write_nifti(path, ball_case()[1][1:])
    with pytest.raises(ImageError, match=r"a different shape.*\(39, 36, 32\)"):
        folder_source(folder, [case]).predict(case)
    write_nifti(path, ball_case()[1] * np.float32(0.5))
    with pytest.raises(ImageError, match=r"ct7_seg.nii.gz: the label map has values between whole numbers"):
        folder_source(folder, [case]).predict(case)
