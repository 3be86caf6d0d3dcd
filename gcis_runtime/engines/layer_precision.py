"""What an engine computes in, judged from what its convolutions compute in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

_Name = TypeVar("_Name", bound=str)

INT8_SHARE = 0.25
"""An INT8 graph keeps small convolutions in float (half of them in number); an engine that dropped most of
its 8-bit ones is none."""


def computed_in(counts: Mapping[_Name, int]) -> _Name | None:
    """Return the precision that an engine has.

    Args:
        counts: Convolutions (or products) by precision: `"fp32"`, `"bf16"`, `"fp16"`, `"int8"`, …

    Returns:
        `"int8"` where a quarter of them compute in 8 bits, else what most compute in; None without any.
    """
    total = sum(counts.values())
    for name, count in counts.items():
        if name == "int8" and count >= INT8_SHARE * total:
            return name
    floats = {name: count for name, count in counts.items() if name != "int8"}
    return max(floats, key=lambda name: floats[name], default=None)
