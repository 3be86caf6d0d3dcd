"""Apply the post-processing rules of a bundle to a finished label map."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.manifest import Label
from gcis_runtime.bundles.post_rules import PostRules
from gcis_runtime.grids.box import Box, box_shape
from gcis_runtime.grids.components import components, enclosed, find_runs, sizes
from gcis_runtime.spec import Shape3
from gcis_runtime.system.stage_clock import StageClock

_ROUNDING = 1e-9
"""Relative error of a volume: 500 voxels of 0.001 mL are not smaller than 0.5 mL."""


@dataclass(frozen=True, kw_only=True)
class PostChange:
    """What the rules changed in one structure of a label map.

    Attributes:
        rules: The rules, such as `largest,min:0.5,fill`.
        removed: Number of voxels that became background.
        added: Number of voxels that were background.
    """

    rules: str
    removed: int
    added: int


@dataclass(frozen=True, kw_only=True)
class PostProcess:
    """Post-processing of a volume.

    Attributes:
        labels: Labels of the manifest, with or without rules.
        voxel_ml: Volume of a voxel in mL.
    """

    labels: tuple[Label, ...]
    voxel_ml: float

    @property
    def rules(self) -> dict[int, PostRules]:
        """Rules by label value, of the structures that have some."""
        return {label.value: label.post for label in self.labels if isinstance(label.post, PostRules)}

    def clean(self, labels: NDArray[Any], clock: StageClock) -> dict[int, PostChange]:
        """Apply the rules to a label map, in place; see `apply_rules`.

        Args:
            labels: (X, Y, Z).
            clock: Clock of the stage `post`, which only appears if there are rules.
        """
        rules = self.rules
        if not rules:
            return {}
        with clock.stage("post"):
            return apply_rules(labels, rules, voxel_ml=self.voxel_ml)

    def clean_mask(self, value: int, mask: NDArray[np.uint8]) -> None:
        """Apply the rules of a structure to its mask (X, Y, Z), 0 or 1, in place."""
        rules = self.rules.get(value)
        if rules is not None:
            apply_rules(mask, {1: rules}, voxel_ml=self.voxel_ml)


def apply_rules(
    labels: NDArray[Any], rules: Mapping[int, PostRules], *, voxel_ml: float
) -> dict[int, PostChange]:
    """Apply rules to a label map, in place.

    First, components are removed from every structure. Then, holes are filled in the order of the size of the
    bounding boxes, so that a hole within nested structures gets the label of the innermost one.

    Args:
        labels: (X, Y, Z); best in Fortran order.
        rules: Rules by label value.
        voxel_ml: Volume of a voxel in mL.

    Returns:
        The change of each structure with rules.
    """
    boxes = bounding_boxes(labels, rules)
    removed, added = dict.fromkeys(rules, 0), dict.fromkeys(rules, 0)
    for value, box in boxes.items():
        if rules[value].removes:
            removed[value] = _remove(labels[box].T, value, rules[value], voxel_ml)
    left = bounding_boxes(labels, [value for value in rules if rules[value].fill])
    for value in sorted(left, key=lambda value: np.prod(box_shape(left[value]))):
        added[value] = _fill(labels[left[value]].T, value)
    return {
        value: PostChange(rules=found.text, removed=removed[value], added=added[value])
        for value, found in rules.items()
    }


def bounding_boxes(labels: NDArray[Any], values: Collection[int]) -> dict[int, Box]:
    """Return the box of each label value that occurs, in the order of `values`.

    Args:
        labels: (X, Y, Z).
        values: Label values.
    """
    wanted = list(values)
    if not wanted:
        return {}
    number = np.full(max(wanted) + 2, -1, dtype=np.intp)  # index of each label value; -1 for all others
    number[wanted] = np.arange(len(wanted))
    low = np.full((len(wanted), 3), np.iinfo(np.int64).max)
    high = np.full((len(wanted), 3), -1)
    for k in range(labels.shape[2]):
        plane = labels[:, :, k]
        y, x = np.nonzero(plane.T)
        which = number[np.minimum(plane[x, y], len(number) - 1)]
        found = which >= 0
        x, y, which = x[found], y[found], which[found]
        for axis, index in enumerate((x, y, np.full(len(x), k))):
            np.minimum.at(low[:, axis], which, index)
            np.maximum.at(high[:, axis], which, index)
    boxes: dict[int, Box] = {}
    for value, first, last in zip(wanted, low, high, strict=True):
        if last[0] >= 0:
            x_part, y_part, z_part = (slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
            boxes[value] = (x_part, y_part, z_part)
    return boxes


def _remove(part: NDArray[Any], value: int, rules: PostRules, voxel_ml: float) -> int:
    """Remove components of a structure, and return the number of voxels.

    Args:
        part: (Z, Y, X) Labels in the box of the structure; changed in place.
        value: Label value.
        rules: The rules.
        voxel_ml: Volume of a voxel in mL.
    """
    runs = find_runs(_shape(part), lambda planes: part[planes] == value)
    component = components(runs, 26)
    size = sizes(runs, component)
    keep = size * voxel_ml >= rules.min_ml * (1 - _ROUNDING)
    if rules.largest:
        keep &= np.arange(len(size)) == size.argmax()
    gone = runs.selected(~keep[component])
    for some in gone.parts():
        part[some.voxels()] = 0
    return int(gone.lengths.sum())


def _fill(part: NDArray[Any], value: int) -> int:
    """Fill the holes of a structure, and return the number of voxels; see `_remove`.

    Voxels outside the box are not enclosed, so that a hole is a component that does not reach its faces.
    """
    runs = find_runs(_shape(part), lambda planes: part[planes] != value)
    holes = runs.selected(enclosed(runs, components(runs, 6)))
    added = 0
    for some in holes.parts():
        index = some.voxels()
        inside = part[index]
        added += int(np.count_nonzero(inside == 0))
        part[index] = np.where(inside == 0, value, inside)
    return added


def _shape(part: NDArray[Any]) -> Shape3:
    z, y, x = part.shape
    return z, y, x
