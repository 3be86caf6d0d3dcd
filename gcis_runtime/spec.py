"""Describe preprocessing and sliding windows as data, shared by training, export and the runtime.

Axis order is the file's (X, Y, Z) after reorientation. Lengths are in millimetres, intensities in Hounsfield
units (HU).
"""

from __future__ import annotations

import itertools
from typing import Literal

import msgspec

Triple = tuple[float, float, float]
Shape3 = tuple[int, int, int]

FLOAT32_BYTES = 4
_LARGEST_UINT8 = 255
_AXIS_PAIRS = ("LR", "PA", "IS")
MOST_MARGIN = 1000
"""Largest margin in voxels: a larger one crops nothing and is a mistake."""


def label_dtype(largest: int) -> Literal["uint8", "uint16"]:
    """Return the name of the smallest NumPy type that holds label values from 0 to `largest`."""
    return "uint8" if largest <= _LARGEST_UINT8 else "uint16"


class Foreground(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rule that crops the network grid to the foreground before windows are placed or sampled.

    The crop is the smallest box that holds every voxel whose mapped intensity is above 0, extended by a
    margin and clipped to the grid, as by MONAI's `CropForeground(margin=margin, allow_smaller=True)`. It is
    empty if no intensity is above 0.

    Attributes:
        margin: Voxels of the network grid by which the box is extended on every side.
    """

    margin: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= MOST_MARGIN:
            raise ValueError(f"foreground margin {self.margin} is not from 0 to {MOST_MARGIN} voxels")


class PreprocessSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Preprocessing from a CT volume to the network input. Validated on construction.

    Attributes:
        orientation: Axis codes to which the volume is flipped and permuted, in the notation of nibabel's
            `aff2axcodes` (`"RAS"`: indices increase towards the patient's right, anterior, superior);
            None keeps the file's axes.
        spacing: Voxel size in mm along each axis after reorientation; None keeps the file's.
        intensity_window: HU values mapped to 0 and 1; values outside are clipped.
        foreground: Foreground crop, the last step. If unset, there is no crop and the field is not written.
    """

    orientation: str | None = None
    spacing: Triple | None = (1.0, 1.0, 1.0)
    intensity_window: tuple[float, float] = (-175.0, 250.0)
    foreground: Foreground | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.orientation is not None and not is_orientation(self.orientation):
            raise ValueError(f"orientation {self.orientation!r} is not three axis codes such as 'RAS'")
        if self.spacing is not None and not all(0.05 <= s <= 50.0 for s in self.spacing):
            raise ValueError(f"spacing {self.spacing} mm has a value outside 0.05 to 50 mm")
        low, high = self.intensity_window
        if not low < high:
            raise ValueError(f"intensity window {self.intensity_window} HU is not increasing")

    @property
    def crop(self) -> Foreground | None:
        """The foreground rule, or None."""
        return self.foreground if isinstance(self.foreground, Foreground) else None


class WindowSpec(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"patch_size": "roi"},  # the name in files
):
    """Sliding window, as in MONAI: a fixed step, with the last window moved back to the border.

    Attributes:
        patch_size: Window size in voxels (`roi` in files); multiples of 32, at least 64.
        overlap: Fraction of the window shared by consecutive windows, in [0, 1).
        blend: `"gaussian"` or `"constant"` weights.
        sigma_scale: Gaussian standard deviation as a fraction of the window size.
        padding_value: Value after intensity mapping that fills windows outside the volume.
    """

    patch_size: Shape3 = (96, 96, 96)
    overlap: float = 0.5
    blend: Literal["gaussian", "constant"] = "gaussian"
    sigma_scale: float = 0.125
    padding_value: float = 0.0

    def __post_init__(self) -> None:
        if not all(r >= 64 and r % 32 == 0 for r in self.patch_size):
            raise ValueError(f"window {self.patch_size} needs multiples of 32 of at least 64 voxels")
        if not 0.0 <= self.overlap < 1.0:
            raise ValueError(f"overlap {self.overlap} is not in [0, 1)")
        if self.sigma_scale <= 0:
            raise ValueError(f"sigma_scale {self.sigma_scale} is not positive")


def check_padding(preprocess: PreprocessSpec, window: WindowSpec) -> None:
    """Check that the padding value is compatible with the foreground rule.

    Intensities outside the cropped box are 0. Windows are read from the uncropped grid, so that padding must
    also be 0.

    Raises:
        ValueError: The padding value is not 0 and there is a foreground rule.
    """
    if preprocess.crop is not None and window.padding_value != 0.0:
        raise ValueError(f"padding value {window.padding_value:g} with a foreground rule, which requires 0")


def is_orientation(codes: str) -> bool:
    """Return whether `codes` names one direction of each body axis, such as `"RAS"` or `"LPS"`."""
    return any(
        all(c in pair for c, pair in zip(codes, order, strict=False)) and len(codes) == 3
        for order in itertools.permutations(_AXIS_PAIRS)
    )
