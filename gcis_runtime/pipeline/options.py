"""Define what to compute for a volume, and the callbacks that follow the computation."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.choices import DEFAULT_RESTORE, RESTORE_CHOICES, Restore
from gcis_runtime.errors import OutputError
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.forecast import Forecast
from gcis_runtime.regions.coarse import check_factor

Progress = Callable[[int, int], None]
"""Called with the number of finished windows and the number of all windows."""


@runtime_checkable
class CoarseSegmenter(Protocol):
    """A segmenter that finds structures for another one; `Segmenter` is the implementation."""

    bundle: Bundle

    def find(
        self, volume: Volume, options: SegmentOptions, values: Collection[int]
    ) -> tuple[NDArray[Any], int]:
        """Segment structures for the coarse pass of another segmenter.

        Args:
            volume: The image.
            options: The options of the other segmenter.
            values: Label values of this bundle.

        Returns:
            The label map (X, Y, Z) on the volume's grid, and the number of windows.
        """
        ...


class SegmentKeywords(TypedDict, total=False):
    """The fields of `SegmentOptions`, as keyword arguments."""

    restore: Restore
    masks: bool
    probabilities: bool
    roi: str | os.PathLike[str] | None
    coarse: float | CoarseSegmenter | None
    body_crop: bool | None
    max_memory: int | None
    raw: bool
    straighten: bool


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """What to compute for a volume. An instance is valid.

    Attributes:
        restore: How labels are resampled to the volume's grid: `"smooth"`, `"nearest"` or `"published"` (see
            `choices.Restore`). `"published"` needs the whole volume: `roi`, `coarse` and `body_crop=True` are
            refused.
        masks: Also keep one mask per structure; masks may overlap.
        probabilities: Also keep one foreground probability map per structure.
        roi: Compute only a part of the volume: voxel ranges `"x0:x1,y0:y1,z0:z1"`, the path of a mask, or the
            name of a structure (see `regions.roi.parse_roi`). Labels inside are bit for bit those of the
            whole volume; every label outside is background.
        coarse: Compute only near structures that a coarse pass finds: the factor by which its voxels are
            larger, or a segmenter of another bundle.
        body_crop: Crop to everything above air. None applies the bundle's foreground rule if there is one;
            this is exact, because the network was trained with the rule. True without a rule computes only
            the body; every label outside is background. False places windows on the whole image.
        max_memory: Limit of the resident memory of the process in bytes; None for no limit. A volume whose
            forecast exceeds the limit is computed with less memory (`Segmentation.steps`) or refused.
        raw: Do not apply the bundle's post-processing rules to the label map and the masks.
        straighten: If the axes of the volume are oblique, segment on a grid along the axes of the patient.
            Labels are on the volume's grid; each is interpolated once, as without this option. `restore`
            `"published"` is refused.

    Raises:
        OutputError: `restore`, `coarse` or `max_memory` is invalid, or options exclude each other.
    """

    restore: Restore = DEFAULT_RESTORE
    masks: bool = False
    probabilities: bool = False
    roi: str | os.PathLike[str] | None = None
    coarse: float | CoarseSegmenter | None = None
    body_crop: bool | None = None
    max_memory: int | None = None
    raw: bool = False
    straighten: bool = False

    def __post_init__(self) -> None:
        if self.restore not in RESTORE_CHOICES:
            raise OutputError(
                "unknown method to restore labels",
                received=repr(self.restore),
                expected=f"{', '.join(RESTORE_CHOICES[:-1])} or {RESTORE_CHOICES[-1]}",
            )
        if self.restore == "published" and self.straighten:
            raise OutputError(
                "restore 'published' cannot be combined with straighten",
                received="restore 'published' with straighten",
                expected="a network grid along the axes of the image, as in the published evaluation",
                fix="Use restore 'smooth' or 'nearest'.",
            )
        parts = {"roi": self.roi, "coarse": self.coarse, "body_crop": self.body_crop or None}
        limited = [name for name, value in parts.items() if value is not None]
        if self.restore == "published" and limited:
            raise OutputError(
                "restore 'published' cannot be limited to a part of the image",
                received=f"restore 'published' with {' and '.join(limited)}",
                expected="the whole image, as in the published evaluation",
                fix="Omit the limit, or use restore 'nearest'.",
            )
        if self.coarse is not None and not isinstance(self.coarse, CoarseSegmenter):
            check_factor(self.coarse)
        if self.body_crop is not None:
            object.__setattr__(self, "body_crop", bool(self.body_crop))  # NumPy's booleans are another type
        limit: object = self.max_memory
        number = isinstance(limit, int | float | np.number) and not isinstance(limit, bool)
        if self.max_memory is not None and not (number and self.max_memory > 0):
            raise OutputError(
                "not an amount of memory", received=repr(limit), expected="bytes, such as 2 << 30 for 2 GiB"
            )

    @property
    def coarse_segmenter(self) -> CoarseSegmenter | None:
        """The segmenter of another bundle that runs the coarse pass; None without one."""
        return self.coarse if isinstance(self.coarse, CoarseSegmenter) else None

    @property
    def coarse_factor(self) -> float | None:
        """The factor by which voxels of the coarse pass are larger; None without a pass by this bundle."""
        return None if self.coarse is None or isinstance(self.coarse, CoarseSegmenter) else float(self.coarse)


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Functions that follow the computation of a volume. They are called in the thread that computes.

    Attributes:
        on_progress: Called after each window.
        on_forecast: Called before the volume starts, and again after each fallback to another engine.
    """

    on_progress: Progress | None = None
    on_forecast: Callable[[Forecast], None] | None = None
