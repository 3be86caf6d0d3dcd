"""`PreprocessSpec` applied: a CT volume becomes the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.grids.box import Box, whole
from gcis_runtime.grids.grid_transform import GridTransform, plan_grid
from gcis_runtime.images.volume import Volume
from gcis_runtime.spec import PreprocessSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkInput:
    """A volume as the network wants it, computed a box at a time: a whole one would be a float32 copy.

    Attributes:
        source: The volume's voxels, (X, Y, Z) in file order; never changed.
        transform: The way from the file's grid to the network's and back.
        window: HU that become 0 and 1.
    """

    source: NDArray[Any]
    transform: GridTransform
    window: tuple[float, float]

    @property
    def array(self) -> NDArray[np.float32]:
        """The whole volume, (X, Y, Z) float32 in [0, 1] on the network's grid; computed at every access."""
        return self.box(whole(self.transform.shape))

    def box(self, box: Box) -> NDArray[np.float32]:
        """Compute a part of the network's grid; a voxel's value does not depend on the part.

        Args:
            box: First and last index along each axis of the network's grid.

        Returns:
            (X, Y, Z) of the box, float32 in [0, 1], a new array.
        """
        moved = self.transform.forward(self.source, box)
        # A resampled array is ours alone: mapping it in place saves a copy of the box.
        out = None if np.may_share_memory(moved, self.source) else moved
        return scale_intensity(moved, self.window, out=out)


def preprocess(volume: Volume, spec: PreprocessSpec) -> NetworkInput:
    """Re-orient, resample and map intensities, in the order of the training transforms.

    Same as MONAI's `Orientationd`, `Spacingd(mode="bilinear")`, `ScaleIntensityRanged(clip=True)` to [0, 1].
    """
    transform = plan_grid(volume.shape, volume.affine, spec)
    return NetworkInput(source=volume.array, transform=transform, window=spec.intensity_window)


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
