"""Select the windows that graphs are compared on and INT8 is calibrated on, from CT files or phantoms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gcis_runtime.images.files import read_volume
from gcis_runtime.pipeline.check_windows import Window, windows_of_phantom, windows_of_volume
from gcis_runtime.spec import PreprocessSpec, WindowSpec

__all__ = ["Window", "calibration_windows", "gather_windows"]

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
        found += windows_of_volume(read_volume(case), spec, window, each)
    source = f"{len(cases)} case{'s' if len(cases) > 1 else ''}"
    if not cases:
        found = windows_of_phantom(PHANTOM_SEED, spec, window, each)
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
        return [w for case in cases for w in windows_of_volume(read_volume(case), spec, window, each)]
    return [w for seed in CALIBRATION_SEEDS for w in windows_of_phantom(seed, spec, window, each)]
