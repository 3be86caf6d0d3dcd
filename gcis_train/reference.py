"""The reference pipeline: PyTorch and MONAI from file to label map, as the published code evaluates.

Slow and heavy on purpose: what `gcis-run` is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import Compose, EnsureChannelFirst, Orientation, ScaleIntensityRange, Spacing
from monai.transforms.utils import convert_applied_interp_mode
from torch import Tensor

from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_train.volumes import load_tensor


def reference_labels(
    image: Path,
    predictor: Callable[[Tensor], Tensor],
    *,
    preprocess: PreprocessSpec,
    window: WindowSpec,
    device: torch.device | None = None,
) -> npt.NDArray[np.uint8]:
    """Segment a CT file with MONAI's transforms and sliding window.

    Args:
        image: CT file.
        predictor: Windows (B, 1, *roi) to margins (B, P, *roi), foreground minus background.
        preprocess: What the network expects.
        window: How windows lie and are blended.
        device: Where the network runs; the CPU when None.

    Returns:
        (X, Y, Z) uint8 on the file's grid: 0, or `p + 1` where margin `p` is the largest and positive.
    """
    geometry = _geometry(preprocess)
    loaded = EnsureChannelFirst(channel_dim="no_channel")(load_tensor(image))
    moved = geometry(loaded)
    low, high = preprocess.intensity_window
    scaled = ScaleIntensityRange(a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)(moved)
    with torch.no_grad():
        margins = sliding_window_inference(
            scaled.as_tensor()[None].float().to(device or "cpu"),
            roi_size=window.roi,
            sw_batch_size=1,
            predictor=predictor,
            overlap=window.overlap,
            mode=window.blend,
            sigma_scale=window.sigma_scale,
            cval=window.padding_value,
        )
    best, channel = margins[0].max(0)
    labels = torch.where(best > 0, channel + 1, torch.zeros_like(channel)).cpu().float()
    return _restore(labels, moved, geometry)


def _geometry(spec: PreprocessSpec) -> Compose:
    steps: list[object] = []
    if spec.orientation is not None:
        steps.append(Orientation(axcodes=spec.orientation, labels=None))
    if spec.spacing is not None:
        steps.append(Spacing(pixdim=spec.spacing, mode="bilinear"))
    return Compose(steps)


def _restore(labels: Tensor, moved: MetaTensor, geometry: Compose) -> npt.NDArray[np.uint8]:
    """Undo the geometry, nearest neighbour."""
    applied = convert_applied_interp_mode(moved.applied_operations, mode="nearest", align_corners=None)
    tracked = MetaTensor(labels[None], affine=moved.affine, applied_operations=applied)
    return np.asarray(geometry.inverse(tracked)[0]).round().astype(np.uint8)
