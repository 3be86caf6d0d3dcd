"""Compute blending weights of windows as MONAI 0.9.1, which the published evaluation uses."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.choices import Restore
from gcis_runtime.sliding.plan import window_weights
from gcis_runtime.spec import WindowSpec

_TRUNCATED = 4.0
"""Standard deviations after which MONAI's Gaussian kernel is zero."""
_FLOOR = 1e-3
"""Smallest weight, relative to the largest."""


def blending_weights(spec: WindowSpec, restore: Restore) -> NDArray[np.float32]:
    """Return the blending weights of a window, (X, Y, Z), for a mapping of labels to the native grid."""
    return published_weights(spec) if restore == "published" else window_weights(spec)


def published_weights(spec: WindowSpec) -> NDArray[np.float32]:
    """Return the blending weights of a window, (X, Y, Z), of MONAI 0.9.1.

    A Gaussian is centred on voxel `size // 2`, half a voxel beside the centre of the window, and integrated
    over each voxel. Later versions of MONAI (`plan.window_weights`) centre it and sample it. Both clamp it
    from below at 0.001 of its maximum, MONAI 0.9.1 in `sliding_window_inference`.

    MONAI computes the error function in float32 to the last place but one, which differs between processors.
    The weights here and those of MONAI 0.9.1 on an x86 CPU differ by at most 0.0002 of a weight.
    """
    if spec.blend == "constant":
        return window_weights(spec)
    x, y, z = (_profile(size, size * spec.sigma_scale) for size in spec.patch_size)
    weights = x[:, None, None] * y[None, :, None] * z[None, None, :]
    weights /= weights.max()
    floor = np.float32(max(float(weights[weights > 0].min()), _FLOOR))
    return np.asarray(np.maximum(weights, floor), dtype=np.float32)


def _profile(size: int, sigma: float) -> NDArray[np.float32]:
    """Return a Gaussian centred on `size // 2` and integrated over voxels, with float32 steps as in MONAI."""
    deviation = np.float32(sigma)
    tail = int(max(float(deviation) * _TRUNCATED, 0.5) + 0.5)
    offset = np.arange(size, dtype=np.float32) - np.float32(size // 2)
    scale = np.float32(0.70710678) / deviation
    half = np.float32(0.5)
    profile = half * (_erf(scale * (offset + half)) - _erf(scale * (offset - half)))
    profile[np.abs(offset) > tail] = 0
    return np.asarray(np.maximum(profile, 0), dtype=np.float32)


def _erf(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.array([math.erf(value) for value in values.tolist()], dtype=np.float32)
