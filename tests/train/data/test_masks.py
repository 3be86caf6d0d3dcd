"""Test masks of structures: unions of files and values, in every format; each file is read once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from gcis_runtime.errors import DataError, ImageError
from gcis_runtime.images.files import read_grid
from gcis_runtime.spec import PreprocessSpec
from gcis_train.data.datalist import Case, Target
from gcis_train.data.masks import masks_of, read_masks
from gcis_train.data.placement import Placement
from gcis_train.data.volumes import load_case
from tests.support.training_values import ball_case, write_nifti

AFFINE = np.array([[0, -1.5, 0, 40], [0, 0, -2.5, 30], [1.2, 0, 0, -20], [0, 0, 0, 1]], dtype=float)
"""Permuted and anisotropic: axis mistakes show."""


def _nrrd(source: Path, path: Path) -> Path:
    """Convert by SimpleITK alone, as a user would."""
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(source)), str(path))
    return path


def test_a_case_in_nrrd_is_the_case_in_nifti(tmp_path: Path) -> None:
    hu, labels = ball_case()
    files = (
        write_nifti(tmp_path / "ct.nii.gz", hu, AFFINE),
        write_nifti(tmp_path / "seg.nii.gz", labels, AFFINE),
    )
    nrrd = [_nrrd(path, path.with_name(path.name.replace(".nii.gz", ".nrrd"))) for path in files]
    spec = PreprocessSpec(orientation="RAS", spacing=(2.0, 2.0, 2.0))
    one, two = (
        load_case(Case(image=i, targets=(Target(prompt="ball", labels=(s,), values=(2,)),)), spec)
        for i, s in (files, nrrd)
    )
    assert one.image.std() > 0.1 and one.mask(0).any()
    assert np.abs(one.image.astype(np.float32) - two.image.astype(np.float32)).max() < 1e-3
    assert np.array_equal(one.mask(0), two.mask(0)) and two.name == "ct"


def test_a_mask_is_the_union_of_files_and_values(tmp_path: Path) -> None:
    values = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    one = write_nifti(tmp_path / "one.nii.gz", values)
    two = write_nifti(tmp_path / "two.nii.gz", values[::-1].copy())
    grid = read_grid(one)
    (mask,) = read_masks([Target(prompt="x", labels=(one, two), values=(1, 3))], like=grid)
    assert np.array_equal(mask, np.isin(values, (1, 3)) | np.isin(values[::-1], (1, 3))) and mask.sum() == 4
    small = write_nifti(tmp_path / "small.nii.gz", values[:1].copy())
    with pytest.raises(ImageError, match=r"small.nii.gz has a different shape.*received \(1, 2, 2\)"):
        list(read_masks([Target(prompt="x", labels=(one, small), values=None)], like=grid))
    with pytest.raises(DataError, match="'x' has no label file"):
        list(read_masks([Target(prompt="x", labels=(), values=None)], like=grid))


def test_a_file_of_several_values_is_read_once() -> None:
    values, reads = np.arange(4).reshape(1, 2, 2), []

    def read(path: Path, placement: Placement) -> np.ndarray:
        reads.append(path)
        return values

    file = Path("map.nii.gz")
    masks = list(masks_of([Target(prompt=str(v), labels=(file,), values=(v,)) for v in (1, 2, 3)], read))
    assert reads == [file]
    assert all(np.array_equal(mask, values == v) for v, mask in enumerate(masks, start=1))


def test_joined_label_files_in_training(tmp_path: Path) -> None:
    hu, labels = ball_case()
    image = write_nifti(tmp_path / "ct.nii.gz", hu)
    files = tuple(write_nifti(tmp_path / f"{v}.nii.gz", (labels == v).astype(np.uint8)) for v in (1, 2))
    spec = PreprocessSpec(orientation="RAS", spacing=(2.0, 2.0, 2.0))
    case = load_case(Case(image=image, targets=(Target(prompt="balls", labels=files, values=(1,)),)), spec)
    assert np.array_equal(case.mask(0), labels > 0)
