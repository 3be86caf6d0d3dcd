"""Sliding windows: MONAI's positions and weights, in slab order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.spec import Shape3, WindowSpec


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """Where windows lie on a grid that was padded to at least one window.

    Attributes:
        shape: The unpadded grid (X, Y, Z).
        before: Voxels of padding before each axis.
        padded: The padded grid.
        roi: Window size.
        axis: Slab axis: windows are ordered by their start along it, then along the others.
        starts: First index of each window on the padded grid.
    """

    shape: Shape3
    before: Shape3
    padded: Shape3
    roi: Shape3
    axis: int
    starts: tuple[Shape3, ...]


def plan_windows(shape: Shape3, spec: WindowSpec, *, axis: int | None = None) -> WindowPlan:
    """Place windows as MONAI's `sliding_window_inference` does.

    Args:
        shape: The grid (X, Y, Z).
        spec: Window size and overlap.
        axis: Slab axis; None takes the longest, which makes slabs smallest.
    """
    padded = tuple(max(n, r) for n, r in zip(shape, spec.roi, strict=True))
    before = tuple((p - n) // 2 for p, n in zip(padded, shape, strict=True))
    if axis is None:
        axis = int(np.argmax(padded))
    along = [axis_starts(n, r, spec.overlap) for n, r in zip(padded, spec.roi, strict=True)]
    starts = sorted(
        ((x, y, z) for x in along[0] for y in along[1] for z in along[2]),
        key=lambda start: (start[axis], start),
    )
    return WindowPlan(
        shape=shape,
        before=(before[0], before[1], before[2]),
        padded=(padded[0], padded[1], padded[2]),
        roi=spec.roi,
        axis=axis,
        starts=tuple(starts),
    )


def axis_starts(length: int, roi: int, overlap: float) -> list[int]:
    """Return window starts along an axis of at least `roi` voxels: a fixed step, the last one pulled back."""
    if length == roi:
        return [0]
    step = max(1, int(roi * (1 - overlap)))
    count = math.ceil((length - roi) / step) + 1
    return [min(i * step, length - roi) for i in range(count)]


def window_weights(spec: WindowSpec) -> NDArray[np.float32]:
    """Return the blending weight of each voxel of a window, (X, Y, Z), as MONAI's `compute_importance_map`.

    Gaussian weights are clamped from below at their minimum or 0.001, whichever is larger.
    """
    if spec.blend == "constant":
        return np.ones(spec.roi, dtype=np.float32)
    profiles = []
    for size in spec.roi:
        x = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
        profiles.append(np.exp(x**2 / np.float32(-2 * (size * spec.sigma_scale) ** 2)))
    weights = profiles[0][:, None, None] * profiles[1][None, :, None] * profiles[2][None, None, :]
    floor = np.float32(max(float(weights.min()), 1e-3))
    return np.asarray(np.maximum(weights, floor), dtype=np.float32)


def pad_to_plan(array: NDArray[np.float32], plan: WindowPlan, value: float) -> NDArray[np.float32]:
    """Pad an array of `plan.shape` to `plan.padded` with `value`; returned as it is when large enough."""
    if plan.shape == plan.padded:
        return array
    out = np.full(plan.padded, value, dtype=np.float32)
    out[tuple(slice(b, b + n) for b, n in zip(plan.before, plan.shape, strict=True))] = array
    return out
