"""Select the windows that graphs are compared on and INT8 is calibrated on, from CT files or phantoms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.demo.phantom import make_phantom
from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.images.files import read_volume
from gcis_runtime.images.volume import Volume
from gcis_runtime.sliding.foreground_crop import foreground_box
from gcis_runtime.sliding.plan import pad_to_plan, plan_windows
from gcis_runtime.spec import PreprocessSpec, WindowSpec

Window = NDArray[np.float32]
"""A preprocessed window: (1, 1, X, Y, Z), contiguous."""

PHANTOM_SEED = 20_261
CALIBRATION_SEEDS = (20_262, 20_263)
"""Phantoms for INT8 calibration; they differ from that of the gate, so that the gate tests unseen data."""


def gather_windows(
    cases: Sequence[Path], *, spec: PreprocessSpec, window: WindowSpec, each: int = 2
) -> tuple[list[Window], str]:
    """Return the windows that the parity gate compares graphs on.

    Args:
        cases: CT files; empty means a phantom of the head and neck.
        spec: Preprocessing of the bundle.
        window: Sliding window of the bundle.
        each: Windows per case; those with the most tissue are selected.

    Returns:
        The windows, of which the last is constant, and a description of their source.

    Raises:
        ImageError: A CT file cannot be read.
    """
    found: list[Window] = []
    for case in cases:
        found += _from_volume(read_volume(case), spec, window, each)
    source = f"{len(cases)} case{'s' if len(cases) > 1 else ''}"
    if not cases:
        found = _from_phantom(PHANTOM_SEED, spec, window, each)
        source = f"phantom {PHANTOM_SEED}"
    # A window of padding, the only constant content that is frequent in CT (air, 0 after preprocessing); the
    # runtime reuses its output. Other constants are ill-conditioned: docs/decisions/0030-parity-limits.md.
    found.append(np.full((1, 1, *window.patch_size), window.padding_value, dtype=np.float32))
    return found, f"{source} and a constant window"


def calibration_windows(
    cases: Sequence[Path], *, spec: PreprocessSpec, window: WindowSpec, each: int = 4
) -> list[Window]:
    """Return the windows that INT8 ranges are calibrated on.

    Args:
        cases: CT files that contain the structures; empty means phantoms that the gate does not use.
        spec: Preprocessing of the bundle.
        window: Sliding window of the bundle.
        each: Windows per case; those with the most tissue are selected.

    Raises:
        ImageError: A CT file cannot be read.
    """
    if cases:
        return [w for case in cases for w in _from_volume(read_volume(case), spec, window, each)]
    return [w for seed in CALIBRATION_SEEDS for w in _from_phantom(seed, spec, window, each)]


def _from_phantom(seed: int, spec: PreprocessSpec, window: WindowSpec, each: int) -> list[Window]:
    """Return the `each` windows of a phantom that contain the most voxels of structures."""
    phantom = make_phantom(seed)
    volume = Volume.from_array(phantom.ct, affine=phantom.affine)
    mask = Volume.from_array((phantom.labels > 0).astype(np.int16), affine=phantom.affine)
    return _from_volume(volume, spec, window, each, mask=mask)


def _from_volume(
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
