"""Detect labels that lie reversed against their image, by the HU values inside their masks.

A mask of a soft organ contains similar values. If the mask is reversed along an axis, it also covers fat, air
and bone, and the standard deviation grows. Structures that are not homogeneous in any direction (bones, air
ways) do not take part.

Of 164 head-and-neck CTs with organs and 40 CTs cropped to a sarcoma, none was reported with its correct
labels. Of the same labels reversed in each of the seven ways, 81 to 87 per cent and 28 to 42 per cent were
found. A case without a report may therefore be wrong.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gcis_runtime.errors import DataError
from gcis_runtime.images.files import read_volume
from gcis_train.data.datalist import Case
from gcis_train.data.masks import read_masks
from gcis_train.data.placement import AXES, Placement

_WAYS = tuple(axes for count in range(4) for axes in itertools.combinations(range(3), count))
"""The eight combinations of reversed axes, without any first."""
_SOFT_SD = 60.0
"""Largest standard deviation of the HU values of a soft organ, also with contrast medium and noise."""
_SOFT_MEAN = (-50.0, 250.0)
_RATIO = 1.5
"""How many times larger the standard deviation as stored must be than that of the best reversal."""
_FEWEST = 200
"""Smallest number of voxels from which the statistics are meaningful."""
_MOST = 100_000
"""Number of voxels per structure that are evaluated, evenly spaced."""
_LIMIT = 1000.0
"""Largest absolute HU value: padding values and metal would dominate the deviation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reversal:
    """Statistics of labels that fit their image better when they are reversed.

    Attributes:
        axes: The axes of the file, as letters of `AXES`.
        stored: Mean and standard deviation in HU inside the labels as stored.
        reversed: Mean and standard deviation in HU inside the reversed labels.
    """

    axes: str
    stored: tuple[float, float]
    reversed: tuple[float, float]

    @property
    def text(self) -> str:
        """The observation in words."""
        (mean, sd), (other, less) = self.stored, self.reversed
        return (
            f"the labels look reversed along {self.axes} against the image: HU inside them "
            f"{mean:.0f} +- {sd:.0f} as stored, {other:.0f} +- {less:.0f} if reversed"
        )

    def remedy(self, placement: Placement) -> str:
        """Return how to correct rows with a placement."""
        flip = "".join(letter for letter in AXES if (letter in self.axes) != (letter in placement.flip))
        fields = '"label_geometry": "image"' + (f', "label_flip": "{flip}"' if flip else "")
        text = f"If that is right, write {fields} into the rows of the image."
        if placement.geometry == "file":
            return text
        return (
            f"{text} If the labels are right as they are, give the label file the header of the image and "
            "omit label_geometry."
        )


class FlipCheck:
    """Collects the HU values inside the masks of one case for each combination of reversed axes.

    Args:
        hu: The image (X, Y, Z), in HU.
    """

    def __init__(self, hu: npt.NDArray[Any]) -> None:
        self._hu = hu
        self._structures: list[tuple[int, list[tuple[float, float]]]] = []

    def add(self, mask: npt.NDArray[np.bool_]) -> None:
        """Add the mask (X, Y, Z) of a structure."""
        where = np.flatnonzero(mask)
        if where.size < _FEWEST:
            return
        count = where.size
        places = np.unravel_index(where[:: -(-count // _MOST)], mask.shape)
        found = []
        for axes in _WAYS:
            index = tuple(
                mask.shape[axis] - 1 - place if axis in axes else place for axis, place in enumerate(places)
            )
            values = np.clip(self._hu[index].astype(np.float64), -_LIMIT, _LIMIT)
            found.append((float(values.mean()), float(values.std())))
        if min(sd for _, sd in found) < _SOFT_SD:
            self._structures.append((count, found))

    def result(self) -> Reversal | None:
        """Return the reversal that fits clearly better than the labels as stored, or None."""
        if not self._structures:
            return None
        total = sum(count for count, _ in self._structures)
        pooled = []
        for way in range(len(_WAYS)):
            mean = sum(count * found[way][0] for count, found in self._structures) / total
            variance = sum(count * found[way][1] ** 2 for count, found in self._structures) / total
            pooled.append((mean, math.sqrt(variance)))
        best = min(range(len(_WAYS)), key=lambda way: pooled[way][1])
        (mean, less), stored = pooled[best], pooled[0]
        soft = less < _SOFT_SD and _SOFT_MEAN[0] < mean < _SOFT_MEAN[1]
        if not best or not soft or stored[1] < max(_SOFT_SD, _RATIO * less):
            return None
        axes = "".join(AXES[axis] for axis in _WAYS[best])
        return Reversal(axes=axes, stored=stored, reversed=pooled[best])


def refuse_reversed(case: Case) -> None:
    """Raise an error if labels that are placed by the header of the image lie reversed against it.

    Cases whose label files have the grid of the image in their own headers are not read.

    Raises:
        DataError: The labels look reversed.
        ImageError: A file cannot be read, or a label has a different shape.
    """
    targets = [t for t in case.targets if t.placement.geometry == "image"]
    if not targets:
        return
    image = read_volume(case.image)
    for placement in dict.fromkeys(t.placement for t in targets):
        check = FlipCheck(image.array)
        for mask in read_masks([t for t in targets if t.placement == placement], like=image):
            check.add(mask)
        if found := check.result():
            raise DataError(
                f"the labels of {case.name} do not fit the image",
                received=found.text,
                expected="voxels in the order of the image",
                fix=found.remedy(placement),
            )
