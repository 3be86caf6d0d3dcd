"""Load cases as arrays that are pre-processed according to a `PreprocessSpec`."""

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
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)
from torch import Tensor

from gcis_runtime.demo.phantom import STRUCTURES, make_phantom
from gcis_runtime.errors import DataError, GcisError
from gcis_runtime.images.files import read_grid, read_volume
from gcis_runtime.images.grid import Grid
from gcis_runtime.spec import Foreground, PreprocessSpec
from gcis_train.data.datalist import Case
from gcis_train.data.flips import refuse_reversed
from gcis_train.data.masks import masks_of
from gcis_train.data.placement import Placement


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaseVolume:
    """A pre-processed case.

    Attributes:
        name: Name of the case for messages.
        image: (X, Y, Z) float16 in [0, 1].
        labels: (X, Y, Z) uint8: 0 is background, `i + 1` is the structure `prompts[i]`. Where structures
            overlap, `overlaps` holds their complete masks.
        prompts: The labelled structures.
        left_right: Axis between the patient's left and right.
        overlaps: Complete masks (bool) of structures that share voxels with another, by index.
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
    """Return MONAI's transforms for `spec`: `image` by trilinear, every other key by nearest interpolation.

    The foreground crop is not included; `content_box` computes it from the image for all keys.
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
        DataError: A file cannot be read, a label is on a different grid, lies reversed against the image or
            is not a label map, or the image has non-finite intensities.
    """
    try:
        grid = read_grid(case.image)
        # All headers are compared before any voxel is read.
        for path, placement in dict.fromkeys((p, t.placement) for t in case.targets for p in t.labels):
            placement.check(path, grid)
        refuse_reversed(case)
        moved = preprocessing(spec, keys=["image"])({"image": case.image})["image"]
        box = content_box(moved, spec)
        whole = masks_of(case.targets, lambda path, placement: _label_values(path, placement, grid, spec))
        masks = (mask[box] for mask in whole)
        image = np.asarray(moved[0], dtype=np.float32)[box]
        prompts = tuple(t.prompt for t in case.targets)
        return _pack(case.name, image, masks, prompts, np.asarray(moved.affine, dtype=np.float64))
    except Exception as error:
        raise DataError(
            f"the case {case.name} cannot be pre-processed",
            received=_root_cause(error).rstrip("."),
            fix="Repair its files or remove the case from the datalist.",
        ) from error


def cropper(rule: Foreground) -> CropForeground:
    """Return MONAI's transform for a foreground rule."""
    return CropForeground(margin=rule.margin, allow_smaller=True)


def content_box(image: Tensor, spec: PreprocessSpec) -> tuple[slice, slice, slice]:
    """Return the box to which the foreground rule crops a pre-processed image; all of it without a rule.

    Args:
        image: (1, X, Y, Z), intensities in [0, 1].
        spec: The pre-processing.

    Raises:
        DataError: The image has no foreground.
    """
    if spec.crop is None:
        return slice(None), slice(None), slice(None)
    starts, ends = cropper(spec.crop).compute_bounding_box(image)
    if (starts >= ends).any():
        raise DataError(
            f"the image has no voxel above {spec.intensity_window[0]:g} HU, to which it is cropped"
        )
    x, y, z = (slice(int(start), int(end)) for start, end in zip(starts, ends, strict=True))
    return x, y, z


def _label_values(path: Path, placement: Placement, grid: Grid, spec: PreprocessSpec) -> npt.NDArray[Any]:
    """Read a label file and resample its values to the network's grid.

    The affine of the image is used: rounding in the header of the label file could result in a different
        shape.
    """
    label = _tensor(placement.read(path, grid), grid.affine)
    moved = preprocessing(spec, keys=["label"])({"label": label}, start=1)["label"]
    values: npt.NDArray[Any] = np.rint(np.asarray(moved[0]))
    return values


def load_tensor(path: Path) -> MetaTensor:
    """Read a CT as input of MONAI's transforms: (X, Y, Z) float32 in HU with its RAS+ affine.

    `LoadImage` is not used: it takes the voxel size from pixdim even where it differs from the sform, and its
        rules for formats differ from those of the runtime.

    Raises:
        ImageError: See `read_volume`.
    """
    volume = read_volume(path)
    return _tensor(volume.array, volume.affine)


def _tensor(array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> MetaTensor:
    return MetaTensor(np.ascontiguousarray(array, dtype=np.float32), affine=affine)


def load_phantom(seed: int, spec: PreprocessSpec) -> CaseVolume:
    """Return a synthetic head and neck as a pre-processed case, generated on the grid of `spec` in RAS.

    Raises:
        DataError: `spec` has an orientation other than RAS or no spacing.
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
    """Return the message of the exception that MONAI's exceptions, which name only the transform, wrap."""
    while error.__cause__ is not None and not isinstance(error, GcisError):
        error = error.__cause__
    return str(error)


def _pack(
    name: str,
    image: npt.NDArray[np.float32],
    masks: Iterable[npt.NDArray[np.bool_]],
    prompts: tuple[str, ...],
    affine: npt.NDArray[np.float64],
) -> CaseVolume:
    """Combine masks into one label map; masks that share voxels with another are also kept completely."""
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
                # A mask that no other has overwritten yet is complete in the label map.
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
