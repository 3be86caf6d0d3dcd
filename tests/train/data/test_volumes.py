"""Test cases as arrays: labels fit the image, the runtime reads equal values, errors name the file."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from gcis_runtime.demo.phantom import STRUCTURES
from gcis_runtime.errors import DataError
from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.images.nifti import read_volume
from gcis_runtime.spec import PreprocessSpec
from gcis_train.data import volumes
from gcis_train.data.datalist import Case, Target
from gcis_train.data.volumes import load_case, load_phantom, preprocessing
from tests.support.bundles_and_images import set_pixdim
from tests.support.training_values import RAS, ball_case, write_nifti

SPEC = PreprocessSpec(orientation="RAS", spacing=(2.0, 2.0, 2.0))


def _oblique() -> np.ndarray:
    a, b = 0.3, -0.2
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    rz = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rx @ rz @ np.diag([1.3, 1.7, 2.9])
    affine[:3, 3] = (-30, 12, 77)
    return affine


def _permuted() -> np.ndarray:
    """Return an anisotropic image with the axes superior, left, posterior."""
    return np.array([[0, -1.5, 0, 40], [0, 0, -2.5, 30], [1.2, 0, 0, -20], [0, 0, 0, 1]], dtype=float)


AFFINES = {
    "plain": RAS,
    "flipped": np.array([[-1.5, 0, 0, 90], [0, -2, 0, 80], [0, 0, 3, 5], [0, 0, 0, 1]], dtype=float),
    "permuted": _permuted(),
    "oblique": _oblique(),
    "oblique flipped": _oblique() @ np.diag([-1, 1, -1, 1]),
}


def _case(folder: Path, hu: np.ndarray, labels: np.ndarray, affine: np.ndarray = RAS) -> Case:
    image = write_nifti(folder / "ct7.nii.gz", hu, affine)
    label = write_nifti(folder / "seg7.nii.gz", labels, affine)
    targets = tuple(Target(prompt=p, labels=(label,), values=(v,)) for v, p in ((1, "left"), (2, "right")))
    return Case(image=image, targets=targets)


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        PreprocessSpec(orientation="LPS", spacing=(1.5, 2.0, 2.5)),
        PreprocessSpec(),
        PreprocessSpec(spacing=None),
    ],
    ids=["RAS", "LPS", "file axes", "file grid"],
)
def test_training_and_runtime_see_the_same_image(tmp_path: Path, name: str, spec: PreprocessSpec) -> None:
    hu, _ = ball_case((34, 30, 26))
    path = write_nifti(tmp_path / "ct.nii.gz", hu, AFFINES[name])
    train = np.asarray(preprocessing(spec, keys=["image"])({"image": path})["image"][0])
    run = preprocess(read_volume(path), spec)
    assert train.shape == run.array.shape
    assert np.abs(train - run.array).max() <= 1e-4
    assert train.std() > 0.05


@pytest.mark.parametrize("name", AFFINES)
def test_masks_stay_on_their_structures(tmp_path: Path, name: str) -> None:
    hu, labels = ball_case((48, 44, 40))
    case = load_case(_case(tmp_path, hu, labels, AFFINES[name]), SPEC)
    assert case.prompts == ("left", "right") and case.name == "ct7"
    assert case.image.dtype == np.float16 and case.labels.dtype == np.uint8
    voxel_mm3 = abs(np.linalg.det(AFFINES[name][:3, :3]))
    for index in (0, 1):
        mask = case.mask(index)
        # The balls are 300 HU brighter than the rest, which is darker than the window's lower half.
        assert case.image[mask].mean() > 0.55
        assert case.image[~(case.mask(0) | case.mask(1))].mean() < 0.2
        expected = (labels == index + 1).sum() * voxel_mm3 / 8.0
        assert mask.sum() == pytest.approx(expected, rel=0.12)


def test_reorientation_puts_left_where_the_patient_has_it(tmp_path: Path) -> None:
    hu, labels = ball_case()  # label 1 at high X
    for affine, first in ((RAS, True), (AFFINES["flipped"], False)):
        case = load_case(_case(tmp_path, hu, labels, affine), SPEC)
        assert case.left_right == 0
        x = [np.argwhere(case.mask(i))[:, 0].mean() for i in (0, 1)]
        assert (x[0] > x[1]) == first


def test_the_left_right_axis_of_a_permuted_file(tmp_path: Path) -> None:
    hu, labels = ball_case()
    spec = PreprocessSpec(orientation=None, spacing=None)
    assert load_case(_case(tmp_path, hu, labels, _permuted()), spec).left_right == 1
    assert load_case(_case(tmp_path, hu, labels, _oblique()), spec).left_right == 0


def test_a_label_without_value_means_everything_above_zero(tmp_path: Path) -> None:
    hu, labels = ball_case()
    image = write_nifti(tmp_path / "a.nii.gz", hu)
    label = write_nifti(tmp_path / "b.nii.gz", labels)
    target = Target(prompt="balls", labels=(label,), values=None)
    case = load_case(Case(image=image, targets=(target,)), SPEC)
    assert np.array_equal(case.mask(0), labels > 0)


def test_overlapping_structures_keep_their_full_masks(tmp_path: Path) -> None:
    hu, _ = ball_case()
    image = write_nifti(tmp_path / "ct.nii.gz", hu)
    boxes = {"a": (0, 20), "b": (15, 30), "c": (18, 19), "d": (35, 38)}
    targets, wanted = [], []
    for name, (low, high) in boxes.items():
        mask = np.zeros(hu.shape, np.uint8)
        mask[low:high] = 1
        wanted.append(mask > 0)
        label = write_nifti(tmp_path / f"{name}.nii.gz", mask)
        targets.append(Target(prompt=name, labels=(label,), values=None))
    case = load_case(Case(image=image, targets=tuple(targets)), SPEC)
    for index, mask in enumerate(wanted):
        assert np.array_equal(case.mask(index), mask)
    assert sorted(case.overlaps) == [0, 1, 2]  # a structure of its own needs no second mask


def test_label_files_are_read_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The values of a mask file are freed before the next file is read; a shared label map is read once."""
    hu, labels = ball_case()
    image = write_nifti(tmp_path / "ct.nii.gz", hu)
    shared = write_nifti(tmp_path / "map.nii.gz", labels)
    own = [write_nifti(tmp_path / f"own{v}.nii.gz", (labels == v).astype(np.uint8)) for v in (1, 2)]
    targets = (
        Target(prompt="a", labels=(shared,), values=(1,)),
        Target(prompt="b", labels=(own[0], own[1]), values=None),
        Target(prompt="c", labels=(shared,), values=(2,)),
    )
    reads: list[str] = []
    alive: list[weakref.ref[np.ndarray]] = []

    def read(path: Path, *args: Any) -> np.ndarray:
        reads.append(path.name)
        values = label_values(path, *args)
        alive.append(weakref.ref(values))
        assert sum(ref() is not None for ref in alive) <= 2  # this one and the label map
        return values

    label_values = volumes._label_values
    monkeypatch.setattr(volumes, "_label_values", read)
    case = load_case(Case(image=image, targets=targets), SPEC)
    assert reads == ["map.nii.gz", "own1.nii.gz", "own2.nii.gz"]
    for index, wanted in enumerate((labels == 1, labels > 0, labels == 2)):
        assert np.array_equal(case.mask(index), wanted)


def test_header_noise_in_a_label_does_not_change_its_size(tmp_path: Path) -> None:
    """The image rounds down to 40 voxels; the 2.00029 mm in the header of the label would round up."""
    hu, labels = ball_case((35, 36, 32))
    noisy = RAS + np.diag([2.9e-4, 0, 0, 0])
    image = write_nifti(tmp_path / "ct.nii.gz", hu)
    label = write_nifti(tmp_path / "seg.nii.gz", labels, noisy)
    spacing = 34 * 2.0 / (40.5 - 1 - 1e-5)
    spec = PreprocessSpec(orientation="RAS", spacing=(spacing, 2.0, 2.0))
    case = load_case(Case(image=image, targets=(Target(prompt="b", labels=(label,), values=(1,)),)), spec)
    assert case.image.shape == case.labels.shape and case.mask(0).any()


@pytest.mark.parametrize("pixdim", [1.0, 0.5])
def test_the_grid_comes_from_the_affine_and_not_from_pixdim(tmp_path: Path, pixdim: float) -> None:
    hu, labels = ball_case()
    case = _case(tmp_path, hu, labels)
    expected = load_case(case, SPEC)
    for path in (case.image, case.targets[0].labels[0]):
        image = nib.load(path)
        image.set_qform(None, 0)
        image.set_sform(RAS, 1)
        nib.save(image, path)
        set_pixdim(path, pixdim)
    found = load_case(case, SPEC)
    assert found.image.shape == preprocess(read_volume(case.image), SPEC).transform.shape
    assert np.array_equal(found.image, expected.image) and np.array_equal(found.labels, expected.labels)


def _four_axes(folder: Path, hu: np.ndarray, labels: np.ndarray) -> tuple[Path, Path]:
    image = write_nifti(folder / "ct4.nii.gz", hu[..., None])
    return image, write_nifti(folder / "seg4.nii.gz", labels[..., None, None])


def _upper_case(folder: Path, hu: np.ndarray, labels: np.ndarray) -> tuple[Path, Path]:
    image = write_nifti(folder / "a.nii.gz", hu).rename(folder / "CT4.NII.GZ")
    return image, write_nifti(folder / "b.nii", labels).rename(folder / "SEG4.NII")


def _upper_case_itk(folder: Path, hu: np.ndarray, labels: np.ndarray) -> tuple[Path, Path]:
    written = []
    for array, suffix, name in ((hu, "nrrd", "CT4.NRRD"), (labels, "mha", "SEG4.MHA")):
        image = SimpleITK.ReadImage(str(write_nifti(folder / "t.nii.gz", array)))
        SimpleITK.WriteImage(image, str(folder / f"t.{suffix}"))
        written.append((folder / f"t.{suffix}").rename(folder / name))
    return written[0], written[1]


def _float_label(folder: Path, hu: np.ndarray, labels: np.ndarray) -> tuple[Path, Path]:
    soft = labels.astype(np.float32) * np.float32(0.9999999)
    return write_nifti(folder / "ct4.nii.gz", hu), write_nifti(folder / "seg4.nii.gz", soft)


def _scaled_label(folder: Path, hu: np.ndarray, labels: np.ndarray) -> tuple[Path, Path]:
    label = nib.Nifti1Image(labels.astype(np.float64), RAS)
    label.set_data_dtype(np.int16)
    nib.save(label, folder / "seg4.nii.gz")
    return write_nifti(folder / "ct4.nii.gz", hu), folder / "seg4.nii.gz"


def _moved_label(folder: Path, hu: np.ndarray, labels: np.ndarray) -> tuple[Path, Path]:
    moved = RAS.copy()
    moved[0, 3] = 0.09 * 2
    return write_nifti(folder / "ct4.nii.gz", hu), write_nifti(folder / "seg4.nii.gz", labels, moved)


@pytest.mark.parametrize(
    "write", [_four_axes, _upper_case, _upper_case_itk, _float_label, _scaled_label, _moved_label]
)
def test_training_reads_what_the_runtime_reads(tmp_path: Path, write: Any) -> None:
    hu, labels = ball_case()
    expected = load_case(_case(tmp_path, hu, labels), SPEC)
    image, label = write(tmp_path, hu, labels)
    targets = tuple(Target(prompt=str(v), labels=(label,), values=(v,)) for v in (1, 2))
    found = load_case(Case(image=image, targets=targets), SPEC)
    assert np.array_equal(found.image, expected.image) and np.array_equal(found.labels, expected.labels)
    assert found.name.casefold() == "ct4"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((40, 36, 32), np.complex64), "the voxels are not real numbers"),
        (np.zeros((40, 36, 32), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "the voxels are not real numbers"),
        (np.full((40, 36, 32), 0.5, np.float32), "values between whole numbers"),
        (np.full((40, 36, 32), np.nan, np.float32), "values that are not finite"),
        (np.full((40, 36, 32), -1, np.int16), "values outside the range of label values"),
    ],
    ids=["complex", "colour", "fractions", "NaN", "negative"],
)
def test_a_file_that_is_not_a_label_map_names_the_case(
    tmp_path: Path, array: np.ndarray, message: str
) -> None:
    case = _case(tmp_path, *ball_case())
    write_nifti(case.targets[0].labels[0], array)
    with pytest.raises(DataError, match=rf"case ct7 cannot be .*seg7.nii.gz: the .*{message[4:]}"):
        load_case(case, SPEC)


def test_more_structures_than_the_label_map_holds(tmp_path: Path) -> None:
    hu, labels = ball_case()
    image, label = write_nifti(tmp_path / "ct.nii.gz", hu), write_nifti(tmp_path / "seg.nii.gz", labels)
    targets = tuple(Target(prompt=f"p{n}", labels=(label,), values=(1,)) for n in range(256))
    with pytest.raises(DataError, match=r"too many structures; received 256"):
        load_case(Case(image=image, targets=targets), SPEC)


def test_a_label_on_another_grid_is_an_error(tmp_path: Path) -> None:
    hu, labels = ball_case()
    case = _case(tmp_path, hu, labels)
    write_nifti(tmp_path / "seg7.nii.gz", labels[:-1])
    with pytest.raises(DataError, match=r"case ct7 .*seg7.nii.gz has a different shape.*\(39, 36, 32\)"):
        load_case(case, SPEC)
    moved = RAS.copy()
    moved[0, 3] = 1.0
    write_nifti(tmp_path / "seg7.nii.gz", labels, moved)
    with pytest.raises(
        DataError,
        match=r"case ct7 .*seg7.nii.gz is on a different grid.*up to 1 mm",
    ):
        load_case(case, SPEC)


def test_unreadable_files_name_the_case(tmp_path: Path) -> None:
    hu, labels = ball_case()
    case = _case(tmp_path, hu, labels)
    whole = case.image.read_bytes()
    case.image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="case ct7 cannot be pre-processed") as caught:
        load_case(case, SPEC)
    assert "object at 0x" not in str(caught.value)
    case.image.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"case ct7 cannot be .*ct7.nii.gz is not a NIfTI file"):
        load_case(case, SPEC)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_intensities_name_the_case(tmp_path: Path, value: float) -> None:
    hu, labels = ball_case()
    broken = hu.astype(np.float32)
    broken[3, 4, 5] = value
    case = _case(tmp_path, broken, labels)
    for spec in (SPEC, PreprocessSpec(spacing=(3.0, 3.0, 3.0))):
        with pytest.raises(DataError, match=r"case ct7 cannot be .*1 of 46080 voxels NaN or infinite"):
            load_case(case, spec)


def test_a_series_of_volumes_is_an_error(tmp_path: Path) -> None:
    hu, labels = ball_case()
    case = _case(tmp_path, np.stack([hu, hu], axis=-1), np.stack([labels, labels], axis=-1))
    with pytest.raises(DataError, match=r"case ct7 .*ct7.nii.gz: the image is not three-dim.*three axes"):
        load_case(case, SPEC)


def test_phantoms_are_cases_on_the_same_terms() -> None:
    spec = PreprocessSpec(orientation="RAS", spacing=(8.0, 8.0, 8.0))
    phantom = load_phantom(3, spec)
    assert phantom.left_right == 0 and set(phantom.prompts) <= set(STRUCTURES.values())
    assert phantom.image.min() >= 0 and phantom.image.max() <= 1 and phantom.image.std() > 0.1
    sides = [phantom.prompts.index(f"{side} parotid gland") for side in ("left", "right")]
    left, right = (np.argwhere(phantom.mask(i))[:, 0].mean() for i in sides)
    assert left < right  # increasing X goes to the patient's right
    with pytest.raises(DataError, match="orientation RAS"):
        load_phantom(3, PreprocessSpec())
