"""Draw training windows: choose position and augmentation as a value, then apply them to a case.

The random generator is seeded by (seed, epoch, item), so that a resumed run draws the same windows as an
uninterrupted one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gcis_runtime.spec import Shape3
from gcis_train.data.sides import mirrored
from gcis_train.data.volumes import CaseVolume
from gcis_train.options.training import AugmentSpec, TrainOptions

BODY = 0.05
"""Pre-processed intensity above which a voxel counts as body (about -154 HU in the default window)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowDraw:
    """Position and augmentation of one training window.

    Attributes:
        centre: Voxel of the case at the centre of the window.
        flip: Axes to mirror.
        turns: Quarter turns in the plane of the first two axes.
        angles: Rotation about each axis, radians.
        zoom: Size of the sampled region relative to the window.
        scale: Factor on the intensities.
        shift: Offset added to the intensities.
        targets: Per mask, the index into the prompts of the case, and the prompt to train.
    """

    centre: tuple[int, int, int]
    flip: tuple[bool, bool, bool]
    turns: int
    angles: tuple[float, float, float]
    zoom: float
    scale: float
    shift: float
    targets: tuple[tuple[int, str], ...]


def draw_window(
    case: CaseVolume,
    options: TrainOptions,
    *,
    prompts: Collection[str],
    rng: np.random.Generator,
    only: str | None = None,
) -> WindowDraw:
    """Choose position and augmentation of one window.

    Args:
        case: The case.
        options: Shares, probabilities and sizes.
        prompts: Prompts of the run: other structures are not trained (a phantom has all seven), and windows
            are mirrored only if the prompts of the mirrored structures are among them.
        rng: Random generator.
        only: The structure to draw and train; None selects all.
    """
    a = options.augment
    wanted = prompts if only is None else (only,)
    known = [i for i, prompt in enumerate(case.prompts) if prompt in wanted]
    chosen = _choose_targets(known, options.max_prompts, rng)
    labelled = rng.random() < options.labelled_share
    if options.crop == "inside":
        centre = _centre_inside(case, chosen, options.window.patch_size, labelled=labelled, rng=rng)
    else:
        centre = _centre(case, chosen, labelled=labelled, rng=rng)
    wish = rng.random(3) < np.asarray(a.flip)
    flip = [bool(f) for f in wish]
    names = [case.prompts[i] for i in chosen]
    if flip[case.left_right] and a.mirror == "sided":
        names = [mirrored(n) for n in names]
        if not set(names) <= set(prompts):
            flip[case.left_right], names = False, [case.prompts[i] for i in chosen]
    warp = rng.random() < a.affine
    turns = int(rng.integers(1, 4)) if rng.random() < a.rotate90 else 0
    if options.window.patch_size[0] != options.window.patch_size[1]:
        turns = 2 if turns else 0  # a quarter turn would change the window's shape
    return WindowDraw(
        centre=centre,
        flip=(flip[0], flip[1], flip[2]),
        turns=turns,
        angles=_angles(a, rng) if warp else (0.0, 0.0, 0.0),
        zoom=float(np.exp(rng.uniform(-1, 1) * np.log1p(a.zoom))) if warp else 1.0,
        scale=1 + a.intensity_size * rng.uniform(-1, 1) if rng.random() < a.intensity_scale else 1.0,
        shift=a.intensity_size * rng.uniform(-1, 1) if rng.random() < a.intensity_shift else 0.0,
        targets=tuple(zip(chosen, names, strict=True)),
    )


def _choose_targets(known: list[int], limit: int, rng: np.random.Generator) -> list[int]:
    if limit and len(known) > limit:
        picked = rng.choice(len(known), size=limit, replace=False).tolist()
        return [known[i] for i in sorted(picked)]
    return known


def _angles(a: AugmentSpec, rng: np.random.Generator) -> tuple[float, float, float]:
    x, y, z = np.deg2rad(a.degrees) * rng.uniform(-1, 1, 3)
    return float(x), float(y), float(z)


def _centre(
    case: CaseVolume, chosen: list[int], *, labelled: bool, rng: np.random.Generator
) -> tuple[int, int, int]:
    """Choose a voxel of a labelled structure (each structure with equal probability), or of the body."""
    flat: npt.NDArray[np.intp] = np.empty(0, np.intp)
    if labelled and chosen:
        flat = np.flatnonzero(case.mask(int(rng.choice(chosen))))
    if not flat.size:
        flat = np.flatnonzero(case.image > BODY)
    voxel = int(flat[rng.integers(flat.size)]) if flat.size else int(rng.integers(case.image.size))
    x, y, z = np.unravel_index(voxel, case.image.shape)
    return int(x), int(y), int(z)


def _centre_inside(
    case: CaseVolume, chosen: list[int], roi: Shape3, *, labelled: bool, rng: np.random.Generator
) -> tuple[int, int, int]:
    """Choose a voxel of a structure, or of the image outside it, and move the window inside the image.

    This is the published sampling. The image is the box of intensities above zero. Where the box is smaller
    than the window, the window is centred on it and padded with air; the published program fails there.
    """
    content = case.image > 0
    mask = case.mask(int(rng.choice(chosen))) if chosen else np.zeros_like(content)
    flat = np.flatnonzero(mask if labelled else content & ~mask)
    flat = flat if flat.size else np.flatnonzero(content if labelled else mask)
    voxel = int(flat[rng.integers(flat.size)]) if flat.size else int(rng.integers(case.image.size))
    centre = []
    for axis, (at, size) in enumerate(zip(np.unravel_index(voxel, case.image.shape), roi, strict=True)):
        others = tuple(a for a in range(3) if a != axis)
        inside = np.flatnonzero(content.any(axis=others))
        low, high = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, case.image.shape[axis])
        if high - low <= size:
            centre.append((low + high) // 2)
        else:
            centre.append(min(max(int(at), low + size // 2), high - (size - size // 2)))
    return centre[0], centre[1], centre[2]


def cut_window(
    case: CaseVolume, draw: WindowDraw, roi: Shape3, *, clip: bool = True
) -> tuple[Tensor, Tensor]:
    """Cut a window from a case and augment it.

    Args:
        case: The case.
        draw: Position and augmentation.
        roi: Window size along X, Y, Z.
        clip: Clip intensities to [0, 1] after augmentation.

    Returns:
        Image (1, *roi) float32 and masks (targets, *roi) float32 of 0 and 1. Outside the case, the image is
        0 (air) and the masks are 0.
    """
    warped = draw.zoom != 1.0 or any(draw.angles)
    margin = 1.0 if not warped else 1.5
    block = _block_around(draw.centre, roi, margin)
    image = torch.from_numpy(_take(case.image, block).astype(np.float32))[None]
    masks = torch.from_numpy(
        np.stack([_take(case.mask(i), block) for i, _ in draw.targets]).astype(np.float32)
        if draw.targets
        else np.zeros((0, *image.shape[1:]), np.float32)
    )
    if warped:
        grid = _grid(draw, roi, (image.shape[1], image.shape[2], image.shape[3]))
        image = _resample(image, grid, "bilinear")
        masks = _resample(masks, grid, "nearest")
    axes = [1 + axis for axis, on in enumerate(draw.flip) if on]
    both = torch.cat((image, masks))
    both = torch.rot90(torch.flip(both, axes) if axes else both, draw.turns, (1, 2))
    image = both[:1] * draw.scale + draw.shift
    image = torch.clamp(image, 0.0, 1.0) if clip else image
    return image.contiguous(), both[1:].contiguous()


Block = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def _block_around(centre: tuple[int, int, int], roi: Shape3, margin: float) -> Block:
    sizes = [int(np.ceil(r * margin / 2)) * 2 for r in roi]
    x, y, z = ((c - s // 2, c - s // 2 + s) for c, s in zip(centre, sizes, strict=True))
    return x, y, z


def _take(array: npt.NDArray[np.generic], block: Block) -> npt.NDArray[np.generic]:
    """Cut a block that may extend beyond the array, with zeros outside."""
    inside = tuple(slice(max(lo, 0), min(hi, n)) for (lo, hi), n in zip(block, array.shape, strict=True))
    pad = [(max(-lo, 0), max(hi - n, 0)) for (lo, hi), n in zip(block, array.shape, strict=True)]
    piece = array[inside]
    return np.pad(piece, pad) if any(map(any, pad)) else piece


def _grid(draw: WindowDraw, roi: Shape3, size: Shape3) -> Tensor:
    """Return sampling positions (1, *roi, 3) in normalised coordinates of the block, last axis Z, Y, X."""
    a, b, c = draw.angles
    rx = torch.tensor([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = torch.tensor([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = torch.tensor([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turn = ((rz @ ry @ rx) * draw.zoom).float()
    axes = [torch.arange(r, dtype=torch.float32) - (r - 1) / 2 for r in roi]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) @ turn.T
    normal = points * 2 / torch.tensor(size, dtype=torch.float32)
    return normal.flip(-1)[None]


def _resample(volume: Tensor, grid: Tensor, mode: str) -> Tensor:
    sampled = torch.nn.functional.grid_sample(volume[None], grid, mode=mode, align_corners=False)
    return sampled[0]
