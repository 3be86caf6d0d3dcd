"""Merge labels: lesions into their organ, left with right."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from gcis_train.data.sides import other_side, without_side
from gcis_train.datasets.samples import Mask


def lesions_in_organs(masks: Sequence[Mask]) -> tuple[Mask, ...]:
    """Add each lesion to the mask of its organ; lesions keep their own masks too."""
    return tuple(
        functools.reduce(union, (lesion for lesion in masks if lesion.lesion_of == mask.prompt), mask)
        for mask in masks
    )


def sides_joined(masks: Sequence[Mask]) -> tuple[Mask, ...]:
    """Join left and right of a structure under the prompt without a side.

    A structure with only one side labelled is dropped, since the other side is unknown.
    """
    by_prompt = {mask.prompt: mask for mask in masks}
    joined: dict[str, Mask] = {}
    for mask in masks:
        other = other_side(mask.prompt)
        if other is None:
            joined[mask.prompt] = mask
        elif other in by_prompt:
            name = without_side(mask.prompt)
            both = union(joined[name], mask) if name in joined else mask
            organ = without_side(mask.lesion_of) if mask.lesion_of else ""
            joined[name] = dataclasses.replace(both, prompt=name, lesion_of=organ)
    return tuple(joined.values())


def union(one: Mask, two: Mask) -> Mask:
    """Return the first mask with the second added.

    Raises:
        ValueError: Both files and values differ, so that no list of files with a list of values describes the
            union.
    """
    if one.files == two.files:
        values = None if one.values is None or two.values is None else _sorted(one.values + two.values)
        return dataclasses.replace(one, values=values)
    if one.values == two.values:
        return dataclasses.replace(one, files=tuple(dict.fromkeys(one.files + two.files)))
    raise ValueError(f"{one.prompt!r} and {two.prompt!r} differ in files and values")


def _sorted(values: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))
