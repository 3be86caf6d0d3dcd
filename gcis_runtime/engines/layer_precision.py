"""Determine the precision of an engine from the precisions of its convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

_Name = TypeVar("_Name", bound=str)

INT8_SHARE = 0.25
"""Smallest share of 8-bit convolutions in an INT8 engine. An INT8 graph keeps small convolutions, half of
them by number, in float; an engine with fewer has dropped most of its 8-bit convolutions."""


def computed_in(counts: Mapping[_Name, int]) -> _Name | None:
    """Return the precision of an engine.

    Args:
        counts: Number of convolutions (or products) by precision: `"fp32"`, `"bf16"`, `"fp16"`, `"int8"`, …

    Returns:
        `"int8"` if at least `INT8_SHARE` of them compute in 8 bits, else the most frequent precision; None
        without any.
    """
    total = sum(counts.values())
    for name, count in counts.items():
        if name == "int8" and count >= INT8_SHARE * total:
            return name
    floats = {name: count for name, count in counts.items() if name != "int8"}
    return max(floats, key=lambda name: floats[name], default=None)
