"""Segment a CT with PyTorch and MONAI: the reference for `gcis-run`.

Speed and memory are not optimised.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import (
    Compose,
    CropForeground,
    EnsureChannelFirst,
    Orientation,
    ScaleIntensityRange,
    Spacing,
)
from monai.transforms.utils import convert_applied_interp_mode
from scipy import ndimage
from torch import Tensor

from gcis_runtime.sliding.labeller import Restore
from gcis_runtime.sliding.published import published_weights
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_train.data.volumes import cropper, load_tensor


def reference_labels(
    image: Path,
    predictor: Callable[[Tensor], Tensor],
    *,
    preprocess: PreprocessSpec,
    window: WindowSpec,
    restore: Restore = "nearest",
    device: torch.device | None = None,
) -> npt.NDArray[np.uint8]:
    """Segment a CT file with MONAI's transforms and sliding window.

    Args:
        image: CT file.
        predictor: Function from windows (B, 1, *roi) to logits (B, P, *roi), foreground minus background.
        preprocess: Pre-processing of the network.
        window: Size, overlap and blending of windows.
        restore: `"nearest"` resamples the label map to the native grid, by position in mm; `"smooth"`
            resamples the logits by linear interpolation and compares them on the native grid; `"published"`
            stretches the label array from corner to corner and blends with the weights of MONAI 0.9.1.
        device: Device of the network; None selects the CPU.

    Returns:
        (X, Y, Z) uint8 on the native grid: 0, or `p + 1` where logit `p` is the largest and positive.
    """
    geometry = geometry_of(preprocess)
    loaded = EnsureChannelFirst(channel_dim="no_channel")(load_tensor(image))
    moved = geometry(loaded)
    low, high = preprocess.intensity_window
    scaled = ScaleIntensityRange(a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)(moved)
    crop = None if preprocess.crop is None else cropper(preprocess.crop)
    content = scaled if crop is None else crop(scaled)
    with torch.no_grad():
        logits = sliding_window_inference(
            content.as_tensor()[None].float().to(device or "cpu"),
            roi_size=window.patch_size,
            sw_batch_size=1,
            predictor=predictor,
            overlap=window.overlap,
            mode=window.blend,
            sigma_scale=window.sigma_scale,
            cval=window.padding_value,
            roi_weight_map=torch.from_numpy(published_weights(window)).to(device or "cpu")
            if restore == "published"
            else None,
        )
    if crop is not None:
        logits = undo_crop(logits[0].cpu(), content, crop)[None]
    if restore == "smooth":
        logits = undo_geometry(logits[0].cpu(), moved, geometry, mode="bilinear")[None]
    best, channel = logits[0].max(0)
    labels = torch.where(best > 0, channel + 1, torch.zeros_like(channel)).cpu().float()
    if restore == "nearest":
        labels = undo_geometry(labels[None], moved, geometry, mode="nearest")[0]
    if restore == "published":
        labels = stretched(labels, loaded, preprocess)
    return labels.numpy().round().astype(np.uint8)


def stretched(labels: Tensor, loaded: MetaTensor, spec: PreprocessSpec) -> Tensor:
    """Resample labels to the file's grid by array shape alone, with the calls of the published evaluation.

    Args:
        labels: (X, Y, Z) on the network's grid.
        loaded: The image (1, X, Y, Z) on the file's grid.
        spec: Pre-processing of the network; re-orientation is inverted after the zoom.
    """
    turn = geometry_of(msgspec.structs.replace(spec, spacing=None))
    turned = turn(loaded)
    ratios = [float(n) / float(m) for n, m in zip(turned.shape[1:], labels.shape, strict=True)]
    zoomed = ndimage.zoom(labels.numpy(), ratios, order=0, prefilter=False)
    return undo_geometry(torch.from_numpy(zoomed)[None], turned, turn, mode="nearest")[0]


def geometry_of(spec: PreprocessSpec) -> Compose:
    """Return the transforms of an image (1, X, Y, Z) to the network's grid."""
    steps: list[object] = []
    if spec.orientation is not None:
        steps.append(Orientation(axcodes=spec.orientation, labels=None))
    if spec.spacing is not None:
        steps.append(Spacing(pixdim=spec.spacing, mode="bilinear"))
    return Compose(steps)


def undo_crop(values: Tensor, content: MetaTensor, crop: CropForeground) -> Tensor:
    """Invert the foreground crop: pad values with zeros, which are logits of background.

    Args:
        values: (C, X, Y, Z) on the grid of `content`.
        content: The cropped image.
        crop: The transform.
    """
    applied = copy.deepcopy(content.applied_operations)  # the inverse removes entries
    undone: MetaTensor = crop.inverse(MetaTensor(values, affine=content.affine, applied_operations=applied))
    return torch.as_tensor(undone.as_tensor())


def undo_geometry(values: Tensor, moved: MetaTensor, geometry: Compose, *, mode: str) -> Tensor:
    """Invert the geometry transforms: resample values from the network's grid to the native grid.

    Args:
        values: (C, X, Y, Z) on the grid of `moved`.
        moved: The image after `geometry`.
        geometry: The transforms.
        mode: `"bilinear"` or `"nearest"`.
    """
    applied = convert_applied_interp_mode(moved.applied_operations, mode=mode, align_corners=None)
    tracked = MetaTensor(values, affine=moved.affine, applied_operations=applied)
    undone: MetaTensor = geometry.inverse(tracked)
    return torch.as_tensor(undone.as_tensor())
