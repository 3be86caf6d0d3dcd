"""Preprocess a CT volume into the network input, as described by a `PreprocessSpec`."""

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
    """Network input of a volume, computed box by box to avoid a float32 copy of the volume.

    Attributes:
        source: Voxels of the volume, (X, Y, Z) in file order; never modified.
        transform: Transform between the grid of the file and the grid of the network.
        window: HU values mapped to 0 and 1.
    """

    source: NDArray[Any]
    transform: GridTransform
    window: tuple[float, float]

    @property
    def array(self) -> NDArray[np.float32]:
        """The complete network input, (X, Y, Z) float32 in [0, 1]; computed on every access."""
        return self.box(whole(self.transform.shape))

    def box(self, box: Box) -> NDArray[np.float32]:
        """Compute a part of the network input. The value of a voxel does not depend on the part.

        Args:
            box: Part of the network grid.

        Returns:
            (X, Y, Z) of the box, float32 in [0, 1], a new array.
        """
        moved = self.transform.forward(self.source, box)
        # A resampled array has no other user: mapping it in place saves a copy of the box.
        out = None if np.may_share_memory(moved, self.source) else moved
        return scale_intensity(moved, self.window, out=out)


def preprocess(volume: Volume, spec: PreprocessSpec, *, straighten: bool = False) -> NetworkInput:
    """Reorient, resample and map intensities, in the order of the training transforms.

    Equivalent to MONAI's `Orientationd`, `Spacingd(mode="bilinear")` and `ScaleIntensityRanged(clip=True)` to
    [0, 1]. Nothing is computed before a box is requested.

    Args:
        volume: The image.
        spec: Orientation, spacing and intensity window.
        straighten: Place the network grid along the axes of the patient; see `plan_grid`.
    """
    transform = plan_grid(volume.shape, volume.affine, spec, straighten=straighten)
    return NetworkInput(source=volume.array, transform=transform, window=spec.intensity_window)


def scale_intensity(
    array: NDArray[Any], window: tuple[float, float], *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Map the HU window to [0, 1] and clip.

    Args:
        array: HU, any shape.
        window: HU values mapped to 0 and 1.
        out: Output array (may be `array`); None allocates one of the same layout.
    """
    low, high = window
    scaled: NDArray[np.float32] = np.subtract(array, np.float32(low), out=out, dtype=np.float32)
    scaled /= np.float32(high - low)
    np.clip(scaled, 0.0, 1.0, out=scaled)
    return scaled
