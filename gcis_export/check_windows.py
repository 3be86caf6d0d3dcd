"""The windows that the parity gate looks at: real cases, or a phantom, and a constant one."""

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
"""(1, 1, X, Y, Z), pre-processed, contiguous."""

PHANTOM_SEED = 20_261
CALIBRATION_SEEDS = (20_262, 20_263)
"""Phantoms that calibrate INT8: others than the gate's, which must not judge what was fitted to it."""


def gather_windows(
    cases: Sequence[Path], *, spec: PreprocessSpec, window: WindowSpec, each: int = 2
) -> tuple[list[Window], str]:
    """Return windows to compare graphs on.

    Args:
        cases: CT files; none means a phantom of the head and neck.
        spec: The bundle's pre-processing.
        window: The bundle's window.
        each: Windows a case, those with most tissue.

    Returns:
        The windows, a constant one last, and a description of where they come from.

    Raises:
        ImageError: A case cannot be read.
    """
    found: list[Window] = []
    for case in cases:
        found += _from_volume(read_volume(case), spec, window, each)
    source = f"{len(cases)} case{'s' if len(cases) > 1 else ''}"
    if not cases:
        found = _from_phantom(PHANTOM_SEED, spec, window, each)
        source = f"phantom {PHANTOM_SEED}"
    # What surrounds a volume, as a rule 0 like air below the intensity window: the one constant content that
    # CT has in quantity, and whose answer the runtime reuses. Others are ill-conditioned (decision 30).
    found.append(np.full((1, 1, *window.patch_size), window.padding_value, dtype=np.float32))
    return found, f"{source} and a constant window"


def calibration_windows(
    cases: Sequence[Path], *, spec: PreprocessSpec, window: WindowSpec, each: int = 4
) -> list[Window]:
    """Return windows that INT8 takes its ranges from: of cases, or of phantoms that the gate does not see.

    Args:
        cases: CT files; they should show the structures.
        spec: The bundle's pre-processing.
        window: The bundle's window.
        each: Windows a case, those with most tissue.

    Raises:
        ImageError: A case cannot be read.
    """
    if cases:
        return [w for case in cases for w in _from_volume(read_volume(case), spec, window, each)]
    return [w for seed in CALIBRATION_SEEDS for w in _from_phantom(seed, spec, window, each)]


def _from_phantom(seed: int, spec: PreprocessSpec, window: WindowSpec, each: int) -> list[Window]:
    """Return the `each` windows of a phantom with most structure."""
    phantom = make_phantom(seed)
    volume = Volume.from_array(phantom.ct, affine=phantom.affine)
    mask = Volume.from_array((phantom.labels > 0).astype(np.int16), affine=phantom.affine)
    return _from_volume(volume, spec, window, each, mask=mask)


def _from_volume(
    volume: Volume, spec: PreprocessSpec, window: WindowSpec, each: int, *, mask: Volume | None = None
) -> list[Window]:
    """Return the `each` windows of a volume with most structure (where a mask says so) or soft tissue."""
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
