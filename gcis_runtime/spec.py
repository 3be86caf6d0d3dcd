"""Pre-processing and windows as data: written once, read by training, export and the runtime.

Axis order everywhere is the file's (X, Y, Z) after re-orientation; lengths are in millimetres,
intensities in Hounsfield units (HU).
"""

from __future__ import annotations

import itertools
from typing import Literal

import msgspec

Triple = tuple[float, float, float]
Shape3 = tuple[int, int, int]

_AXIS_PAIRS = ("LR", "PA", "IS")
MOST_MARGIN = 1000
"""Voxels: a larger margin crops nothing, and is a mistake."""


class Foreground(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rule that crops the network's grid to what is not air, before windows are laid or drawn.

    The box that holds every voxel whose mapped intensity is above 0, grown and cut at the grid's border, as
    MONAI's `CropForeground(margin=margin, allow_smaller=True)`. Where nothing is above 0 it is empty.

    Attributes:
        margin: Voxels of the network's grid that the box grows by on every side.
    """

    margin: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= MOST_MARGIN:
            raise ValueError(f"foreground margin {self.margin} is not from 0 to {MOST_MARGIN} voxels")


class PreprocessSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a CT volume becomes the network's input. Valid, or it does not exist.

    Attributes:
        orientation: Axis codes that the volume is flipped and permuted to, as nibabel's `aff2axcodes`
            spells them (`"RAS"`: increasing index goes towards the patient's right, anterior, superior);
            None keeps the file's axes.
        spacing: Voxel size in mm along each axis after re-orientation; None keeps the file's.
        intensity_window: HU values mapped to 0 and 1; values outside are clipped.
        foreground: The last step: crops the grid to what is not air. Unset, and then not written: no crop.
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
        """The foreground rule, if there is one."""
        return self.foreground if isinstance(self.foreground, Foreground) else None


class WindowSpec(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"patch_size": "roi"},  # the name in files
):
    """The sliding window: MONAI's convention (fixed step, last window pulled back to the border).

    Attributes:
        patch_size: Window size in voxels (`roi` in files); each a multiple of 32, at least 64.
        overlap: Share of the window that consecutive windows have in common, in [0, 1).
        blend: `"gaussian"` or `"constant"` weights.
        sigma_scale: Gaussian standard deviation as a share of the window size.
        padding_value: Value, after intensity mapping, that fills a window beyond the volume.
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
    """Refuse a window whose padding is not what a foreground rule crops off.

    Around the cropped box lie zeros: windows may then be read from the uncropped grid.

    Raises:
        ValueError: A foreground rule with another padding value than 0.
    """
    if preprocess.crop is not None and window.padding_value != 0.0:
        raise ValueError(
            f"padding value {window.padding_value:g} with a foreground rule: what that crops off is 0"
        )


def is_orientation(codes: str) -> bool:
    """Tell whether `codes` names one direction of each body axis, such as `"RAS"` or `"LPS"`."""
    return any(
        all(c in pair for c, pair in zip(codes, order, strict=False)) and len(codes) == 3
        for order in itertools.permutations(_AXIS_PAIRS)
    )
