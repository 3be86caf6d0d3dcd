"""Test the foreground rule in training: cases are cropped as by MONAI, and every file keeps the rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)

from gcis_runtime.errors import CheckpointError, DataError
from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.images.nifti import read_volume
from gcis_runtime.sliding.foreground_crop import foreground_box
from gcis_runtime.spec import Foreground, PreprocessSpec, WindowSpec
from gcis_train.data.cache import VolumeCache
from gcis_train.data.datalist import Case, Target
from gcis_train.data.volumes import load_case, load_phantom
from gcis_train.evaluation import reference
from gcis_train.evaluation.ceiling import ceilings
from gcis_train.evaluation.reference import reference_labels
from gcis_train.nets.config import NetworkConfig
from gcis_train.options.settings import resolve_options
from gcis_train.options.training import TrainOptions
from gcis_train.training.finetune import base_options
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import CheckpointConfig
from tests.support.training_values import RAS, ball_case, options, write_nifti

CPU = torch.device("cpu")
PLAIN = PreprocessSpec(orientation="RAS", spacing=(2.0, 2.0, 2.0))
AFFINES = {
    "plain": RAS,
    "flipped": np.array([[-1.5, 0, 0, 90], [0, -2, 0, 80], [0, 0, 3, 5], [0, 0, 0, 1]], dtype=float),
    "permuted": np.array([[0, -1.5, 0, 40], [0, 0, -2.5, 30], [1.2, 0, 0, -20], [0, 0, 0, 1]], dtype=float),
}


def _with(margin: int, spec: PreprocessSpec = PLAIN) -> PreprocessSpec:
    return msgspec.structs.replace(spec, foreground=Foreground(margin=margin))


def _case(folder: Path, affine: np.ndarray = RAS) -> Case:
    """Write two balls in a block of tissue, off centre in air."""
    hu, labels = np.full((60, 50, 44), -1000, np.int16), np.zeros((60, 50, 44), np.uint8)
    tissue, balls = ball_case((30, 26, 20))
    part = (slice(4, 34), slice(20, 46), slice(10, 30))
    hu[part], labels[part] = tissue + 150, balls
    image = write_nifti(folder / "ct.nii.gz", hu, affine)
    label = write_nifti(folder / "seg.nii.gz", labels, affine)
    targets = tuple(Target(prompt=p, labels=(label,), values=(v,)) for v, p in ((1, "left"), (2, "right")))
    return Case(image=image, targets=targets)


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("margin", [0, 3, 6, 100])  # 6 reaches over the border a little
def test_cases_are_cropped_as_monai_crops_them(tmp_path: Path, name: str, margin: int) -> None:
    case = _case(tmp_path, AFFINES[name])
    keys = ["image", "label"]
    monai = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes="RAS", labels=None),
            Spacingd(keys, (2.0, 2.0, 2.0), mode=["bilinear", "nearest"]),
            ScaleIntensityRanged(["image"], -175, 250, 0, 1, clip=True),
            CropForegroundd(keys, "image", margin=margin, allow_smaller=True),
        ]
    )({"image": case.image, "label": case.targets[0].labels[0]})
    found = load_case(case, _with(margin))
    assert found.image.shape == monai["image"].shape[1:]
    assert np.array_equal(found.image, np.asarray(monai["image"][0]).astype(np.float16))
    assert np.array_equal(found.labels, np.asarray(monai["label"][0]))
    whole = load_case(case, PLAIN)
    assert (found.image.size < whole.image.size) == (margin < 100)
    for index in (0, 1):
        assert found.mask(index).sum() == whole.mask(index).sum() > 0
    assert found.left_right == whole.left_right


@pytest.mark.parametrize("name", AFFINES)
def test_training_and_runtime_crop_to_the_same_box(tmp_path: Path, name: str) -> None:
    case = _case(tmp_path, AFFINES[name])
    spec = _with(2)
    box = foreground_box(preprocess(read_volume(case.image), spec), Foreground(margin=2))
    assert box is not None
    assert np.array_equal(load_case(case, PLAIN).image[box], load_case(case, spec).image)


def test_phantoms_are_cropped_too() -> None:
    spec = PreprocessSpec(orientation="RAS", spacing=(6.0, 6.0, 6.0))
    whole, cropped = load_phantom(3, spec), load_phantom(3, _with(0, spec))
    assert cropped.image.size < whole.image.size and cropped.prompts == whole.prompts
    for axis in range(3):
        for end in (0, -1):
            assert np.take(cropped.image, end, axis).max() > 0
    assert [cropped.mask(i).sum() for i in range(7)] == [whole.mask(i).sum() for i in range(7)]


def test_a_case_of_air_is_one_clear_error(tmp_path: Path) -> None:
    image = write_nifti(tmp_path / "air.nii.gz", np.full((20, 20, 20), -1000, np.int16))
    with pytest.raises(
        DataError, match=r"air cannot be pre-processed; .*the image has no voxel above -175 HU"
    ):
        load_case(Case(image=image, targets=()), _with(0))


def test_the_cache_tells_rules_apart(tmp_path: Path) -> None:
    case, cache = _case(tmp_path), VolumeCache(tmp_path / "cache", notify=pytest.fail)
    for spec in (PLAIN, _with(0), _with(2), _with(2)):
        assert np.array_equal(cache.load(case, spec).image, load_case(case, spec).image)
    assert cache.size()[0] == 3


def test_a_ceiling_is_that_of_the_grid_alone(tmp_path: Path) -> None:
    specs = {"plain": PLAIN, "cropped": _with(0)}
    grids = ceilings([_case(tmp_path, AFFINES["flipped"])], specs, progress=lambda line: None)["grids"]
    assert grids["cropped"] == grids["plain"]


# The reference pipeline


@pytest.mark.parametrize("restore", ["nearest", "smooth", "published"])
def test_the_reference_pipeline_labels_nothing_outside_the_box(tmp_path: Path, restore: Any) -> None:
    """A network that finds its structure everywhere labels exactly the box, on the native grid."""
    case, seen = _case(tmp_path, AFFINES["flipped"]), []

    def everywhere(window: torch.Tensor) -> torch.Tensor:
        seen.append(window.clone())
        return torch.ones_like(window)

    window = WindowSpec(patch_size=(64, 64, 64))
    found = {}
    for spec in (PLAIN, _with(1)):
        labels = reference_labels(case.image, everywhere, preprocess=spec, window=window, restore=restore)
        found[spec] = labels
    assert found[PLAIN].all()
    assert 0.1 < found[_with(1)].mean() < 0.6
    body = np.asarray(read_volume(case.image).array) > -175
    assert found[_with(1)][body].all()
    inside = np.argwhere(found[_with(1)])
    assert np.all(inside.max(0) - inside.min(0) + 1 <= np.ptp(np.argwhere(body), axis=0) + 2 * 4)
    # The box lies in the window's middle, zeros around it.
    assert all(seen[-1][0, 0].amax(dim=(1, 2))[edge] == 0 for edge in (0, -1))


def test_the_reference_pipeline_finds_nothing_in_air(tmp_path: Path) -> None:
    image = write_nifti(tmp_path / "air.nii.gz", np.full((20, 20, 20), -1000, np.int16))
    for restore in ("nearest", "smooth", "published"):
        labels = reference_labels(
            image,
            torch.ones_like,
            preprocess=_with(0),
            window=WindowSpec(patch_size=(64, 64, 64)),
            restore=restore,
        )
        assert labels.shape == (20, 20, 20) and not labels.any()


def test_the_inverse_crop_leaves_the_image_as_it_was(tmp_path: Path) -> None:
    case = _case(tmp_path)
    crop = reference.cropper(Foreground(margin=1))
    image = reference.geometry_of(PLAIN)(reference.load_tensor(case.image)[None])
    content = crop(image.clamp(min=0))
    for _ in range(2):  # the inverse takes parts out of what was applied
        assert reference.undo_crop(content.as_tensor(), content, crop).shape == image.shape


# Options, checkpoints


def _resolve(base: dict[str, Any] | None = None, **flags: Any) -> TrainOptions:
    return resolve_options(flags, device=CPU, base=base)


def test_the_option_by_flag_file_and_checkpoint(tmp_path: Path) -> None:
    assert _resolve().preprocess.crop is None
    assert _resolve(crop_foreground="4").preprocess.crop == Foreground(margin=4)
    file = tmp_path / "c.json"
    file.write_text('{"preprocess": {"foreground": {"margin": 2}}}')
    assert _resolve(config=file).preprocess.crop == Foreground(margin=2)
    assert _resolve(config=file, crop_foreground="off").preprocess == PreprocessSpec()
    base = {"preprocess": msgspec.to_builtins(_with(6))}
    assert _resolve(base, spacing="3").preprocess.crop == Foreground(margin=6)
    assert _resolve(base, crop_foreground="off").preprocess.crop is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"crop_foreground": "some"}, "--crop-foreground cannot be read; received 'some'"),
        ({"crop_foreground": "-1"}, "foreground margin -1 is not from 0 to 1000"),
        (
            {"crop_foreground": "2", "published": True},
            r"preprocess.foreground differs from the published recipe; received \{'margin': 2\}",
        ),
    ],
)
def test_what_it_cannot_be_is_one_clear_error(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _resolve(**flags)


def test_zeros_must_lie_around_what_is_cropped() -> None:
    window = WindowSpec(patch_size=(64, 64, 64), padding_value=0.5)
    with pytest.raises(ValueError, match=r"padding value 0.5 with a foreground rule"):
        options(preprocess=_with(0), window=window)
    with pytest.raises(ValueError, match=r"padding value 0.5 with a foreground rule"):
        CheckpointConfig(kind="static", network=NetworkConfig(), preprocess=_with(0), window=window)
    assert options(window=window).window == window


def test_checkpoints_keep_the_rule_and_say_nothing_without_one(tmp_path: Path) -> None:
    for spec in (PLAIN, _with(3)):
        config = CheckpointConfig(kind="encoder", network=NetworkConfig(), preprocess=spec)
        checkpoint.save(tmp_path / "c", config, {"a": torch.zeros(1)})
        found = checkpoint.load(tmp_path / "c")
        assert found.config.preprocess == spec
        assert base_options(found)["preprocess"].get("foreground") == (spec.crop and {"margin": 3})
        text = json.loads((tmp_path / "c" / "config.json").read_text())["preprocess"]
        assert ("foreground" in text) == (spec.crop is not None)
    (tmp_path / "c" / "config.json").write_text(
        (tmp_path / "c" / "config.json").read_text().replace('"margin": 3', '"margin": -3')
    )
    with pytest.raises(CheckpointError, match="foreground margin -3"):
        checkpoint.load(tmp_path / "c")
