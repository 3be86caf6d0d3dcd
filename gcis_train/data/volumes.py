"""Cases as arrays: pre-processed once as the `PreprocessSpec` says, kept compactly in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    CropForeground,
    EnsureChannelFirstd,
    LoadImage,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)
from torch import Tensor

from gcis_runtime.demo.phantom import STRUCTURES, make_phantom
from gcis_runtime.errors import DataError
from gcis_runtime.images.suffixes import ITK
from gcis_runtime.spec import Foreground, PreprocessSpec
from gcis_train.data.datalist import Case
from gcis_train.data.images import masks_of, read_array, read_grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaseVolume:
    """A pre-processed case.

    Attributes:
        name: For messages.
        image: (X, Y, Z) float16 in [0, 1].
        labels: (X, Y, Z) uint8: 0 nothing, `i + 1` the structure `prompts[i]`. Where structures overlap,
            `overlaps` holds the full masks.
        prompts: The labelled structures.
        left_right: Axis that runs between the patient's left and right.
        overlaps: Full masks (bool) of structures that share voxels with another, by index.
    """

    name: str
    image: npt.NDArray[np.float16]
    labels: npt.NDArray[np.uint8]
    prompts: tuple[str, ...]
    left_right: int
    overlaps: dict[int, npt.NDArray[np.bool_]]

    def mask(self, index: int) -> npt.NDArray[np.bool_]:
        """Return the mask of structure `index`."""
        return self.overlaps[index] if index in self.overlaps else self.labels == index + 1


def preprocessing(spec: PreprocessSpec, *, keys: Sequence[str]) -> Compose:
    """Return MONAI's transforms for `spec`: `image` trilinear, every other key nearest.

    Without its crop, which every key takes from the image: see `content_box`.
    """
    transforms: list[object] = [
        lambda data: {**data, **{key: load_tensor(data[key]) for key in keys}},
        EnsureChannelFirstd(keys=keys, channel_dim="no_channel"),
    ]
    if spec.orientation is not None:
        transforms.append(Orientationd(keys=keys, axcodes=spec.orientation, labels=None))
    if spec.spacing is not None:
        modes = ["bilinear" if key == "image" else "nearest" for key in keys]
        transforms.append(Spacingd(keys=keys, pixdim=spec.spacing, mode=modes))
    if "image" in keys:
        low, high = spec.intensity_window
        window = {"a_min": low, "a_max": high, "b_min": 0.0, "b_max": 1.0, "clip": True}
        transforms.append(ScaleIntensityRanged(keys=["image"], **window))
    return Compose(transforms)


def load_case(case: Case, spec: PreprocessSpec) -> CaseVolume:
    """Read and pre-process a case.

    Label files are read one after another: a hundred masks of one structure each (TotalSegmentator), or
    thirty of 1024 x 1024 x 180 voxels (HaN-Seg), do not fit into memory together.

    Raises:
        DataError: A file that cannot be read, a label on another grid, or non-finite intensities.
    """
    _check_grids(case.image, tuple(dict.fromkeys(path for t in case.targets for path in t.labels)))
    try:
        loaded = preprocessing(spec, keys=["image"])({"image": case.image}, end=1)["image"]
        finite = bool(np.isfinite(np.asarray(loaded)).all())  # before clipping hides infinities
        if finite:
            moved = preprocessing(spec, keys=["image"])({"image": loaded}, start=1)["image"]
            box = content_box(moved, spec)
            whole = masks_of(case.targets, lambda path: _label_values(path, loaded.affine, spec))
            masks = (mask[box] for mask in whole)
            image = np.asarray(moved[0], dtype=np.float32)[box]
            prompts = tuple(t.prompt for t in case.targets)
            return _pack(case.name, image, masks, prompts, np.asarray(moved.affine, dtype=np.float64))
    except Exception as error:
        raise DataError(
            f"the case {case.name} cannot be pre-processed",
            received=_root_cause(error),
            fix="Repair its files or leave it out of the datalist.",
        ) from error
    raise DataError(f"the case {case.name} has non-finite intensities", fix="Repair or leave it out.")


def cropper(rule: Foreground) -> CropForeground:
    """Return MONAI's transform for a foreground rule."""
    return CropForeground(margin=rule.margin, allow_smaller=True)


def content_box(image: Tensor, spec: PreprocessSpec) -> tuple[slice, slice, slice]:
    """Return the part of a pre-processed image that its foreground rule leaves; all of it without one.

    Args:
        image: (1, X, Y, Z), intensities mapped.
        spec: The pre-processing.

    Raises:
        DataError: The rule leaves nothing.
    """
    if spec.crop is None:
        return slice(None), slice(None), slice(None)
    starts, ends = cropper(spec.crop).compute_bounding_box(image)
    if (starts >= ends).any():
        raise DataError(f"nothing lies above {spec.intensity_window[0]:g} HU, which images are cropped to")
    x, y, z = (slice(int(start), int(end)) for start, end in zip(starts, ends, strict=True))
    return x, y, z


def _label_values(path: Path, affine: Tensor, spec: PreprocessSpec) -> npt.NDArray[Any]:
    """Read a label file and bring its values to the network's grid.

    `affine` is the image's: a label's own may differ by header noise, and would then round to another size.
    """
    label = load_tensor(path)
    label.affine = affine
    moved = preprocessing(spec, keys=["label"])({"label": label}, start=1)["label"]
    values: npt.NDArray[Any] = np.rint(np.asarray(moved[0]))
    return values


def load_tensor(path: Path) -> MetaTensor:
    """Read a file as MONAI's transforms want it: (X, Y, Z) float32 with its RAS+ affine."""
    if not path.name.endswith(ITK):
        return LoadImage(image_only=True)(path)
    return MetaTensor(read_array(path).astype(np.float32), affine=read_grid(path).affine)


def load_phantom(seed: int, spec: PreprocessSpec) -> CaseVolume:
    """Return a synthetic head and neck as a pre-processed case (made on the spec's grid, in RAS).

    Raises:
        DataError: The spec asks for an orientation other than RAS.
    """
    if spec.orientation != "RAS" or spec.spacing is None:
        raise DataError(
            "phantoms need a fixed grid",
            received=f"orientation {spec.orientation}, spacing {spec.spacing}",
            expected="orientation RAS and a spacing",
        )
    phantom = make_phantom(seed, spacing=spec.spacing)
    low, high = spec.intensity_window
    image = np.clip((phantom.ct.astype(np.float32) - low) / (high - low), 0.0, 1.0)
    box = content_box(torch.from_numpy(image)[None], spec)
    image, labels = image[box], phantom.labels[box]
    present = [value for value in STRUCTURES if (labels == value).any()]
    masks = [labels == value for value in present]
    return _pack(f"phantom {seed}", image, masks, tuple(STRUCTURES[v] for v in present), phantom.affine)


def _root_cause(error: BaseException) -> str:
    """Return what went wrong first: MONAI wraps it in the name of the transform."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def _check_grids(image: Path, labels: Sequence[Path]) -> None:
    """Compare headers only; the transforms read the voxels."""
    try:
        reference = read_grid(image)
        grids = [(path, read_grid(path)) for path in labels]
    except DataError as error:
        raise DataError(f"a file of the case {image.name} cannot be read", received=str(error)) from error
    if len(reference.shape) != 3:
        raise DataError(
            f"the image {image.name} is not one volume",
            received=f"shape {reference.shape}",
            expected="three axes",
        )
    for path, label in grids:
        if not label.matches(reference):
            raise DataError(
                f"the label {path.name} is on another grid than {image.name}",
                received=f"shape {label.shape}",
                expected=f"shape {reference.shape} and the same affine",
                fix="Resample the label to the image.",
            )


def _pack(
    name: str,
    image: npt.NDArray[np.float32],
    masks: Iterable[npt.NDArray[np.bool_]],
    prompts: tuple[str, ...],
    affine: npt.NDArray[np.float64],
) -> CaseVolume:
    """Put masks into one label map as they come; those that share voxels with another are kept whole too."""
    if len(prompts) > 255:
        raise DataError(
            f"the case {name} has too many structures", received=str(len(prompts)), expected="at most 255"
        )
    labels = np.zeros(image.shape, np.uint8)
    overlaps: dict[int, npt.NDArray[np.bool_]] = {}
    for index, mask in enumerate(masks):
        for value in np.unique(labels[mask]):
            other = int(value) - 1
            if other >= 0:
                # A mask that nothing has overwritten yet is whole in the label map.
                overlaps.setdefault(other, labels == value)
                overlaps[index] = mask
        labels[mask] = index + 1
    codes = nib.aff2axcodes(affine)
    left_right = next(axis for axis, code in enumerate(codes) if code in ("L", "R"))
    return CaseVolume(
        name=name,
        image=image.astype(np.float16),
        labels=labels,
        prompts=prompts,
        left_right=left_right,
        overlaps=overlaps,
    )
