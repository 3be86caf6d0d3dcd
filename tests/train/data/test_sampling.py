"""Test training windows: draws are reproducible, labels stay on their voxels, sides are kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from gcis_train.data.sampling import WindowDraw, cut_window, draw_window
from gcis_train.data.sides import mirrored
from gcis_train.options.training import AugmentSpec
from tests.support.training_values import ROI, options, volume

STILL: dict[str, Any] = {
    "flip": (False, False, False),
    "turns": 0,
    "angles": (0.0, 0.0, 0.0),
    "zoom": 1.0,
    "scale": 1.0,
    "shift": 0.0,
}


def _mask(shape: tuple[int, int, int], *voxels: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def _draw(centre: tuple[int, int, int], targets: tuple[tuple[int, str], ...], **changes: Any) -> WindowDraw:
    return WindowDraw(centre=centre, targets=targets, **{**STILL, **changes})


def _left_case(prompts: tuple[str, ...] = ("left kidney",), axis: int = 0) -> Any:
    shape = (70, 70, 70)
    masks = {}
    for index, prompt in enumerate(prompts):
        voxel = [30, 30, 30 + 2 * index]
        voxel[axis] = 20
        masks[prompt] = _mask(shape, (voxel[0], voxel[1], voxel[2]))
    return volume(masks, left_right=axis)


def _augment(**changes: Any) -> AugmentSpec:
    still = {"flip": (0, 0, 0), "rotate90": 0, "intensity_scale": 0, "intensity_shift": 0}
    return AugmentSpec(**{**still, **changes})


def test_decisions_replay_identically() -> None:
    case = _left_case(("left kidney", "liver"))
    augment = AugmentSpec(
        flip=(0.5, 0.5, 0.5), rotate90=0.5, intensity_scale=0.5, intensity_shift=0.5, affine=0.5
    )
    run = options(augment=augment, max_prompts=1)
    prompts = ("left kidney", "right kidney", "liver")
    draws = [
        [draw_window(case, run, prompts=prompts, rng=np.random.default_rng([3, i])) for i in range(40)]
        for _ in range(2)
    ]
    assert draws[0] == draws[1]
    assert len(set(map(repr, draws[0]))) == 40
    for one, two in zip(*([cut_window(case, d, ROI) for d in ds[:5]] for ds in draws), strict=True):
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_window_takes_the_mirrored_prompt(axis: int) -> None:
    case = _left_case(axis=axis)
    flip = tuple(1.0 if a == axis else 0.0 for a in range(3))
    run = options(augment=_augment(flip=flip))
    draw = draw_window(case, run, prompts={"left kidney", "right kidney"}, rng=np.random.default_rng(0))
    assert draw.flip[axis] and draw.targets == ((0, "right kidney"),)
    # The structure was at 20 along the axis, 15 below the window's centre, and lands as far above it.
    draw = _draw((35, 35, 35), draw.targets, flip=draw.flip)
    _, masks = cut_window(case, draw, ROI)
    (where,) = masks[0].nonzero().tolist()
    start = 35 - 32
    expected = [30 - start] * 3
    expected[axis] = 63 - (20 - start)
    assert where == expected


def test_an_axis_without_a_mirrored_prompt_is_not_mirrored() -> None:
    run = options(augment=_augment(flip=(1.0, 1.0, 1.0)))
    draw = draw_window(_left_case(), run, prompts={"left kidney"}, rng=np.random.default_rng(0))
    assert draw.flip == (False, True, True) and draw.targets == ((0, "left kidney"),)
    # One structure without its mirrored prompt holds the whole window back.
    case = _left_case(("left kidney", "left lung"))
    prompts = {"left kidney", "right kidney", "left lung"}
    draw = draw_window(case, run, prompts=prompts, rng=np.random.default_rng(0))
    assert not draw.flip[0] and draw.targets == ((0, "left kidney"), (1, "left lung"))


def test_plain_mirroring_keeps_prompts() -> None:
    run = options(augment=_augment(flip=(1.0, 0.0, 0.0), mirror="plain"))
    prompts = {"left kidney", "right kidney"}
    draw = draw_window(_left_case(), run, prompts=prompts, rng=np.random.default_rng(0))
    assert draw.flip[0] and draw.targets == ((0, "left kidney"),)


def test_prompts_without_sides_are_mirrored_as_they_are() -> None:
    run = options(augment=_augment(flip=(1.0, 0.0, 0.0)))
    draw = draw_window(_left_case(("liver",)), run, prompts={"liver"}, rng=np.random.default_rng(0))
    assert draw.flip[0] and draw.targets == ((0, "liver"),)


@pytest.mark.parametrize(
    ("prompt", "other"),
    [
        ("left kidney", "right kidney"),
        ("Right lung, upper lobe", "Left lung, upper lobe"),
        ("RIGHT LUNG", "LEFT LUNG"),
        ("right atrium", "right atrium"),
        ("kidney_left", "kidney_right"),
        ("left-sided rib", "right-sided rib"),
        ("liver", "liver"),
        ("cleft", "cleft"),
        ("bright spot", "bright spot"),
        ("leftover", "leftover"),
    ],
)
def test_mirrored_words(prompt: str, other: str) -> None:
    assert mirrored(prompt) == other
    assert mirrored(other) == prompt


@pytest.mark.parametrize("flip", [(True, False, False), (False, True, True), (True, True, True)])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_label_and_image_stay_together(flip: tuple[bool, bool, bool], turns: int) -> None:
    shape = (70, 66, 68)
    mask = _mask(shape, (40, 20, 33))
    case = volume({"a": mask}, image=mask * 1.0)
    image, masks = cut_window(case, _draw((35, 30, 33), ((0, "a"),), flip=flip, turns=turns), ROI)
    assert image.shape == (1, *ROI) and masks.shape == (1, *ROI)
    assert masks.sum() == 1
    assert torch.equal(image[0], masks[0])


def test_label_and_image_stay_together_under_rotation_and_zoom() -> None:
    shape = (80, 80, 80)
    mask = np.zeros(shape, bool)
    mask[44:52, 30:36, 38:47] = True
    case = volume({"a": mask}, image=mask * 1.0)
    draw = _draw(
        (42, 40, 41), ((0, "a"),), angles=(0.15, -0.1, 0.17), zoom=1.1, flip=(True, False, False), turns=1
    )
    image, masks = cut_window(case, draw, ROI)
    assert ((image[0] > 0.5) != (masks[0] > 0.5)).sum() <= 0.06 * masks[0].sum()
    # A zoom of 1.1 shows 1.1 times as much: the structure shrinks by that factor along each axis.
    assert float(masks[0].sum()) == pytest.approx(mask.sum() / 1.1**3, rel=0.1)
    still, _ = cut_window(case, _draw((42, 40, 41), ((0, "a"),)), ROI)
    assert not torch.equal(still, image)


def test_the_warp_turns_about_the_window_centre() -> None:
    mask = np.zeros((96, 96, 96), bool)
    mask[46:51, 46:51, 46:51] = True
    case = volume({"a": mask}, image=mask * 1.0)
    _, masks = cut_window(case, _draw((48, 48, 48), ((0, "a"),), angles=(0.17, 0.17, 0.17), zoom=1.15), ROI)
    centroid = masks[0].nonzero().float().mean(0)
    assert torch.allclose(centroid, torch.full((3,), 32.0), atol=0.5)


def test_beyond_the_volume_is_air() -> None:
    mask = np.ones((20, 70, 30), bool)
    case = volume({"a": mask}, image=mask * 1.0)
    for changes in ({}, {"zoom": 1.1}):
        image, masks = cut_window(case, _draw((0, 35, 15), ((0, "a"),), **changes), ROI)
        # Voxel 0 of the volume is voxel 32 of the window: everything before is beyond the volume.
        outside = image[0, :30]
        assert (outside == 0).all() and (masks[0, :30] == 0).all()
        assert torch.allclose(image[0, 34:48, 20:40, 22:40], torch.ones(()))
    image, _ = cut_window(case, _draw((0, 35, 15), ((0, "a"),)), ROI)
    assert image.sum() == 20 * 64 * 30


def test_a_window_without_targets_has_no_masks() -> None:
    image, masks = cut_window(_left_case(), _draw((35, 35, 35), (), zoom=1.1), ROI)
    assert masks.shape == (0, *ROI) and image.max() > 0


def test_labelled_share_and_body() -> None:
    shape = (50, 50, 50)
    masks = {"small": _mask(shape, (5, 5, 5)), "large": np.zeros(shape, bool)}
    masks["large"][30:40, 30:40, 30:40] = True
    image = np.zeros(shape)
    image[20:, :, :] = 0.5  # body
    case = volume(masks, image=image)
    prompts = tuple(masks)
    centres = {}
    for share in (0.0, 1.0):
        run = options(labelled_share=share)
        draws = [draw_window(case, run, prompts=prompts, rng=np.random.default_rng(i)) for i in range(60)]
        centres[share] = np.array([d.centre for d in draws])
    inside = np.array([case.labels[tuple(c)] for c in centres[1.0]])
    assert (inside > 0).all()
    assert 15 < (inside == 1).sum() < 45  # each structure equally often, however small
    body = centres[0.0]
    assert (body[:, 0] >= 20).all()
    assert np.ptp(body[:, 1]) > 25


def test_empty_structures_and_empty_images_still_give_a_window() -> None:
    shape = (10, 10, 10)
    case = volume({"a": np.zeros(shape, bool)}, image=np.zeros(shape))
    run = options(labelled_share=1.0)
    draw = draw_window(case, run, prompts=("a",), rng=np.random.default_rng(0))
    image, masks = cut_window(case, draw, ROI)
    assert image.sum() == 0 and masks.shape == (1, *ROI)


def test_structures_beyond_the_run_are_not_trained() -> None:
    case = _left_case(("mandible", "larynx", "brainstem"))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        draw = draw_window(case, options(max_prompts=1), prompts={"larynx"}, rng=rng)
        assert draw.targets == ((1, "larynx"),)


def test_at_most_max_prompts() -> None:
    case = _left_case(tuple("abcde"))
    chosen = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        draw = draw_window(case, options(max_prompts=2), prompts=tuple("abcde"), rng=rng)
        assert len(draw.targets) == 2
        assert all(case.prompts[i] == name for i, name in draw.targets)
        chosen |= {name for _, name in draw.targets}
    assert chosen == set("abcde")


def test_quarter_turns_keep_the_window_shape() -> None:
    run = options(augment=_augment(rotate90=1.0))
    turns = set()
    for seed in range(20):
        draw = draw_window(_left_case(), run, prompts={"left kidney"}, rng=np.random.default_rng(seed))
        turns.add(draw.turns)
    assert turns == {1, 2, 3}
    wide = options(augment=_augment(rotate90=1.0), window=type(run.window)(patch_size=(96, 64, 64)))
    draw = draw_window(_left_case(), wide, prompts={"left kidney"}, rng=np.random.default_rng(0))
    assert draw.turns == 2
    assert cut_window(_left_case(), draw, (96, 64, 64))[0].shape == (1, 96, 64, 64)


def test_intensity_changes_are_scaled_shifted_and_clipped() -> None:
    image = np.full((64, 64, 64), 0.5)
    image[0] = 1.0
    case = volume({"a": np.zeros((64, 64, 64), bool)}, image=image)
    changed, masks = cut_window(case, _draw((32, 32, 32), ((0, "a"),), scale=1.1, shift=0.05), ROI)
    assert float(changed[0, 32, 32, 32]) == pytest.approx(0.6, abs=1e-3)
    assert float(changed.max()) == 1.0 and float(masks.max()) == 0.0


def test_published_windows_stay_inside_the_image_and_centre_on_their_structure() -> None:
    image = np.zeros((100, 90, 200), np.float32)
    image[10:90, 5:85, 20:190] = 0.5  # what cropping to the foreground leaves: 80 x 80 x 170
    mask = np.zeros(image.shape, bool)
    mask[80:88, 10:14, 150:180] = True
    case = volume({"liver": mask, "spleen": image == 7}, image=image)
    run = options(crop="inside", labelled_share=0.5, augment=AugmentSpec(flip=(0, 0, 0), rotate90=0))
    hits = 0
    for index in range(60):
        draw = draw_window(
            case, run, prompts=("liver", "spleen"), rng=np.random.default_rng(index), only="liver"
        )
        assert [name for _, name in draw.targets] == ["liver"]
        low = [c - 32 for c in draw.centre]
        assert low[0] >= 10 and low[0] + 64 <= 90 and low[1] >= 5 and low[1] + 64 <= 85
        assert low[2] >= 20 and low[2] + 64 <= 190
        _, masks = cut_window(case, draw, (64, 64, 64))
        hits += bool(masks.any())
    assert hits > 30  # half are centred on the structure, others may see it


def test_an_image_smaller_than_the_window_is_centred() -> None:
    image = np.zeros((40, 100, 100), np.float32)
    image[10:30, 20:80, 30:60] = 1
    case = volume({"liver": image > 2}, image=image)
    draw = draw_window(case, options(crop="inside"), prompts=("liver",), rng=np.random.default_rng(0))
    assert draw.centre == (20, 50, 45)


def test_intensities_may_leave_the_unit_interval_as_published() -> None:
    case = volume({"liver": np.ones((64, 64, 64), bool)})
    plain = draw_window(case, options(), prompts=("liver",), rng=np.random.default_rng(0))
    draw = dataclasses.replace(plain, centre=(32, 32, 32), scale=1.1, shift=0.1)
    clipped, _ = cut_window(case, draw, (64, 64, 64))
    free, _ = cut_window(case, draw, (64, 64, 64), clip=False)
    assert float(clipped.max()) == 1.0 and float(free.max()) == pytest.approx(1.2, abs=1e-3)
