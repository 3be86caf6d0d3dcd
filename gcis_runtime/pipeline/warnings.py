"""Warnings about an image or a run that the user should know."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from gcis_runtime.spec import Shape3, WindowSpec
from gcis_runtime.system.memory import bytes_text

_DIRECTIONS = {
    "L": "left-right",
    "R": "left-right",
    "P": "front-back",
    "A": "front-back",
    "I": "head-feet",
    "S": "head-feet",
}


def intensity_warnings(array: NDArray[Any]) -> tuple[str, ...]:
    """Say when values do not look like a CT in HU: air near -1000 and bone or contrast above 100.

    Args:
        array: Intensities (X, Y, Z).
    """
    low, high = float(array.min()), float(array.max())
    if low == high:
        return (f"every voxel is {low:g}: this is not a CT image",)
    if low >= 0:
        return (
            f"no value below 0 (range {low:g} to {high:g}): CT in HU has air near -1000; add the offset?",
        )
    if low > -500 or high < 100 or low < -10000 or high > 40000:
        return (f"values from {low:g} to {high:g} are unusual for CT in HU",)
    return ()


def context_warnings(shape: Shape3, affine: NDArray[np.float64], window: WindowSpec) -> tuple[str, ...]:
    """Say when the field of view is smaller than the window that the network was trained with.

    A window is what training showed around a structure. Where the image is smaller, padding fills what is
    missing, and the network sees less of the neighbourhood than it ever learnt from.

    Args:
        shape: The image on the network's grid (X, Y, Z).
        affine: (4, 4), network voxel index to RAS+ mm.
        window: The bundle's window.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    codes = nib.aff2axcodes(affine, labels=(("L", "R"), ("P", "A"), ("I", "S")))
    short = [
        f"{n * s:.0f} of {r * s:.0f} mm {_DIRECTIONS[code]}"
        for n, r, s, code in zip(shape, window.patch_size, spacing, codes, strict=True)
        if n < r
    ]
    if not short:
        return ()
    return (f"the field of view is smaller than the window that was trained: {', '.join(short)}",)


def limit_warnings(before: int | None, peak: int | None, allowed: int | None) -> tuple[str, ...]:
    """Say when a run took more memory than was allowed, although less had been predicted.

    Args:
        before: Peak of the process before the run, bytes; None where unknown.
        peak: Its peak after it.
        allowed: What was allowed; None: any.
    """
    if before is None or peak is None or allowed is None or peak <= max(before, allowed):
        return ()
    return (f"the run took {bytes_text(peak)} of memory, {bytes_text(allowed)} were allowed",)
