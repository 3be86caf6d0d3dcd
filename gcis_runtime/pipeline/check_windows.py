"""Select windows of a volume on which precisions are compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.demo.phantom import make_phantom
from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.images.volume import Volume
from gcis_runtime.sliding.foreground_crop import foreground_box
from gcis_runtime.sliding.plan import pad_to_plan, plan_windows
from gcis_runtime.spec import PreprocessSpec, WindowSpec

Window = NDArray[np.float32]
"""A preprocessed window: (1, 1, X, Y, Z), contiguous."""


def windows_of_phantom(seed: int, spec: PreprocessSpec, window: WindowSpec, each: int) -> list[Window]:
    """Return the `each` windows of a phantom that contain the most voxels of structures."""
    phantom = make_phantom(seed)
    volume = Volume.from_array(phantom.ct, affine=phantom.affine)
    mask = Volume.from_array((phantom.labels > 0).astype(np.int16), affine=phantom.affine)
    return windows_of_volume(volume, spec, window, each, mask=mask)


def windows_of_volume(
    volume: Volume, spec: PreprocessSpec, window: WindowSpec, each: int, *, mask: Volume | None = None
) -> list[Window]:
    """Return the `each` windows with the most voxels of the mask, or of soft tissue if there is no mask."""
    image = preprocess(volume, spec)
    box = None if spec.crop is None else foreground_box(image, spec.crop)
    plan = plan_windows(image.transform.shape, window, within=box)
    padded = pad_to_plan(image.array, plan, window.padding_value)
    if mask is None:
        content = (padded > 0) & (padded < 1)
    else:
        on_grid = image.transform.forward(mask.array).astype(np.float32)
        content = pad_to_plan(on_grid, plan, 0.0) > 0.5
    cuts = [
        tuple(slice(s, s + r) for s, r in zip(start, window.patch_size, strict=True)) for start in plan.starts
    ]
    best = sorted(cuts, key=lambda cut: -int(np.count_nonzero(content[cut])))[:each]
    return [np.ascontiguousarray(padded[cut], dtype=np.float32)[None, None] for cut in best]
