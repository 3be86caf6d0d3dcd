"""`PreprocessSpec` applied: a CT volume becomes the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.geometry import GridTrace, plan_grid
from gcis_runtime.spec import PreprocessSpec
from gcis_runtime.volume import Volume


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkInput:
    """A pre-processed volume.

    Attributes:
        array: (X, Y, Z) float32 in [0, 1] on the network's grid.
        trace: The way back to the file's grid.
    """

    array: NDArray[np.float32]
    trace: GridTrace


def preprocess(volume: Volume, spec: PreprocessSpec) -> NetworkInput:
    """Re-orient, resample and map intensities, in the order of the training transforms.

    Same as MONAI's `Orientationd`, `Spacingd(mode="bilinear")`, `ScaleIntensityRanged(clip=True)` to [0, 1].
    """
    trace = plan_grid(volume.shape, volume.affine, spec)
    moved = trace.forward(volume.array)
    # A resampled array is ours alone: mapping it in place saves 450 MB on 512 x 512 x 425 voxels.
    out = None if np.may_share_memory(moved, volume.array) else moved
    return NetworkInput(array=scale_intensity(moved, spec.intensity_window, out=out), trace=trace)


def scale_intensity(
    array: NDArray[Any], window: tuple[float, float], *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Map HU `window` to [0, 1] and clip.

    Args:
        array: HU, any shape.
        window: HU that become 0 and 1.
        out: Where to put the result (may be `array`); None makes a new array of the same layout.
    """
    low, high = window
    scaled: NDArray[np.float32] = np.subtract(array, np.float32(low), out=out, dtype=np.float32)
    scaled /= np.float32(high - low)
    np.clip(scaled, 0.0, 1.0, out=scaled)
    return scaled
