"""Test labels that are placed by the header of their image, and the detection of reversed labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from gcis_runtime.errors import DataError, ImageError
from gcis_runtime.images.files import read_grid
from gcis_runtime.spec import PreprocessSpec
from gcis_train.cli.main import main
from gcis_train.data.cache import VolumeCache
from gcis_train.data.datalist import Case, Target, group_cases, read_datalist
from gcis_train.data.flips import FlipCheck
from gcis_train.data.masks import read_masks
from gcis_train.data.placement import Placement
from gcis_train.data.volumes import load_case
from gcis_train.evaluation.evaluate import Prediction, score_case
from tests.support.training_values import write_nifti

LPI = np.array([[-2.0, 0, 0, 30], [0, -2.0, 0, 40], [0, 0, -3.0, 50], [0, 0, 0, 1]])
SPEC = PreprocessSpec(orientation="RAS", spacing=(2.0, 2.0, 2.0))
FLIPS = ("x", "y", "z", "xy", "xz", "yz", "xyz")
IMAGE = Placement(geometry="image")


def organ(mean: float = 100, sd: float = 20) -> tuple[np.ndarray, np.ndarray]:
    """Return HU and mask of an off-centre ball among blocks of air, fat, muscle and bone."""
    shape = (30, 28, 26)
    rng = np.random.default_rng(0)
    x, y, z = np.indices(shape)
    mask = (x - 9) ** 2 + (y - 9) ** 2 + (z - 8) ** 2 < 36
    blocks = rng.choice([-900, -100, 40, 700], (10, 10, 9)).repeat(3, 0).repeat(3, 1).repeat(3, 2)
    around = blocks[: shape[0], : shape[1], : shape[2]]
    return np.where(mask, mean + sd * rng.standard_normal(shape), around).astype(np.int16), mask


def reversed_along(array: np.ndarray, axes: str) -> np.ndarray:
    return np.flip(array, tuple("xyz".index(letter) for letter in axes)).copy()


def write(folder: Path, labels: np.ndarray, **fields: str) -> Path:
    """Write an LPI image, a label file with an identity affine, and a datalist."""
    write_nifti(folder / "ct.nii.gz", organ()[0], LPI)
    write_nifti(folder / "seg.nii.gz", labels.astype(np.uint8), np.eye(4))
    row = {"image": "ct.nii.gz", "label": "seg.nii.gz", "prompt": "liver", "label_value": 1, **fields}
    path = folder / "datalist.json"
    path.write_text(json.dumps({"training": [row], "validation": []}))
    return path


def case_of(path: Path) -> Case:
    return group_cases(read_datalist(path).training, folder=path.parent)[0]


def check(path: Path) -> tuple[int, dict[str, Any], str]:
    done = CliRunner().invoke(main, ["datalist", "check", str(path), "--json", "--no-picture"])
    return done.exit_code, json.loads(done.stdout), done.stderr


def test_voxels_lie_on_the_grid_of_the_image(tmp_path: Path) -> None:
    path = write(tmp_path, organ()[1], label_geometry="image")
    case, grid = case_of(path), read_grid(tmp_path / "ct.nii.gz")
    (mask,) = read_masks(case.targets, like=grid)
    assert np.array_equal(mask, organ()[1])
    right = write_nifti(tmp_path / "right.nii.gz", organ()[1].astype(np.uint8), LPI)
    same = Case(image=case.image, targets=(Target(prompt="liver", labels=(right,), values=(1,)),))
    assert np.array_equal(load_case(case, SPEC).labels, load_case(same, SPEC).labels)
    found = Prediction(labels=organ()[1].astype(np.uint8), values={"liver": 1})
    assert score_case(case, found, tolerance=2.0)[0].dice == 1
    code, result, _ = check(path)
    assert code == 0 and result["label_geometry"]["image"] == 1
    assert result["label_geometry"]["headers_differ"] == ["training ct"]
    assert result["label_geometry"]["largest_mm"] > 50


def test_the_header_of_the_label_file_is_required_by_default(tmp_path: Path) -> None:
    case = case_of(write(tmp_path, organ()[1]))
    with pytest.raises(ImageError, match="different grid"):
        list(read_masks(case.targets, like=read_grid(case.image)))
    with pytest.raises(DataError, match="different grid"):
        load_case(case, SPEC)


def test_the_shape_must_be_equal(tmp_path: Path) -> None:
    path = write(tmp_path, organ()[1][:-1], label_geometry="image")
    case = case_of(path)
    with pytest.raises(ImageError, match="different shape"):
        list(read_masks(case.targets, like=read_grid(case.image)))
    with pytest.raises(DataError, match="different shape"):
        load_case(case, SPEC)
    code, result, _ = check(path)
    assert code == 2 and "different shape" in result["problems"][0]["message"]


@pytest.mark.parametrize("axes", FLIPS)
def test_reversed_labels_are_refused_until_their_rows_name_the_axes(tmp_path: Path, axes: str) -> None:
    wrong = reversed_along(organ()[1], axes)
    path = write(tmp_path, wrong, label_geometry="image")
    case = case_of(path)
    seen = f"reversed along {axes} against the image: HU inside them"
    with pytest.raises(DataError, match=seen) as refused:
        load_case(case, SPEC)
    assert f'"label_flip": "{axes}"' in str(refused.value)
    with pytest.raises(DataError, match=seen):
        score_case(case, Prediction(labels=wrong.astype(np.uint8), values={"liver": 1}), tolerance=2.0)
    code, _, errors = check(path)
    assert code == 2 and "error: training case ct: the labels look reversed" in errors

    path = write(tmp_path, wrong, label_geometry="image", label_flip=axes)
    (mask,) = read_masks(case_of(path).targets, like=read_grid(case.image))
    assert np.array_equal(mask, organ()[1])
    load_case(case_of(path), SPEC)
    assert check(path)[0] == 0


def test_a_needless_flip_is_refused_with_the_way_back(tmp_path: Path) -> None:
    case = case_of(write(tmp_path, organ()[1], label_geometry="image", label_flip="yz"))
    with pytest.raises(DataError, match="reversed along yz") as refused:
        load_case(case, SPEC)
    assert '"label_geometry": "image" into' in str(refused.value) and "label_flip" not in str(refused.value)


def test_reversed_labels_with_the_header_of_the_image_are_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path, organ()[1])
    write_nifti(tmp_path / "seg.nii.gz", reversed_along(organ()[1], "z").astype(np.uint8), LPI)
    code, _, errors = check(path)
    assert code == 0 and "warning: training case ct: the labels look reversed along z" in errors
    assert '"label_flip": "z" into the rows of the image.' in errors and "omit label_geometry" not in errors
    load_case(case_of(path), SPEC)


@pytest.mark.parametrize("mean", [900, -900])
def test_only_soft_organs_are_judged(mean: float) -> None:
    hu, mask = organ(mean, 200)
    judge = FlipCheck(hu)
    judge.add(mask)
    assert judge.result() is None
    judge = FlipCheck(organ()[0])
    judge.add(organ()[1])
    assert judge.result() is None


def test_small_structures_are_not_judged() -> None:
    hu, mask = organ()
    judge = FlipCheck(hu)
    judge.add(reversed_along(mask & (np.indices(mask.shape).sum(0) < 18), "xyz"))
    assert judge.result() is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_geometry": "both"}, "both"),
        ({"label_geometry": "image", "label_flip": "a"}, "not made of the letters"),
        ({"label_geometry": "image", "label_flip": "zz"}, "not made of the letters"),
        ({"label_flip": "z"}, "without label_geometry"),
    ],
)
def test_wrong_fields_are_refused(tmp_path: Path, fields: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_datalist(write(tmp_path, organ()[1], **fields))


def test_structures_of_several_tissues_do_not_hide_a_soft_organ() -> None:
    hu, mask = organ()
    judge = FlipCheck(hu)
    judge.add(reversed_along(mask, "xz"))
    judge.add(np.indices(mask.shape)[0] > 15)
    found = judge.result()
    assert found is not None and found.axes == "xz"


def test_a_cached_case_is_created_again_with_another_placement(tmp_path: Path) -> None:
    flat = np.zeros_like(organ()[1])
    flat[12:18, 11:17, 9:14] = True  # central enough to be accepted in every direction
    flat[12, 11, 9] = False
    path = write(tmp_path, flat, label_geometry="image")
    cache = VolumeCache(tmp_path / "cache", notify=lambda _: None)
    plain = cache.load(case_of(path), SPEC)
    rows = json.loads(path.read_text())
    rows["training"][0]["label_flip"] = "x"
    path.write_text(json.dumps(rows))
    other = cache.load(case_of(path), SPEC)
    assert not np.array_equal(plain.labels, other.labels) and cache.size()[0] == 2
