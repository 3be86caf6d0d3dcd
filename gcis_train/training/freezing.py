"""Select parameters by part of the network, and freeze the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal

from torch import nn

from gcis_train.nets.pathway import Pathway

FrozenPart = Literal["swin", "encoder", "none"]
"""Frozen part of the encoder: its Swin transformer (as published), all of it, or nothing."""

FROZEN_PARTS: tuple[FrozenPart, ...] = ("swin", "encoder", "none")

_PREFIX: dict[FrozenPart, tuple[str, ...]] = {
    "swin": ("encoder.swin.",),
    "encoder": ("encoder.",),
    "none": (),
}
_BLOCK = re.compile(r"decoder\.positions\.(\d+)\.blocks\.(\d+)\.")


def is_frozen(name: str, part: FrozenPart) -> bool:
    """Return whether a parameter belongs to the frozen part."""
    return name.startswith(_PREFIX[part])


def is_router(name: str) -> bool:
    """Return whether a parameter belongs to a router."""
    return name.startswith("routers.")


def is_block(name: str) -> bool:
    """Return whether a parameter belongs to a routed block of any pathway."""
    return _BLOCK.match(name) is not None


def on_pathways(name: str, pathways: Iterable[Pathway]) -> bool:
    """Return whether a parameter belongs to a routed block that one of the pathways uses."""
    match = _BLOCK.match(name)
    if match is None:
        return False
    position, choice = int(match[1]), int(match[2])
    return any(pathway.choices[position] == choice for pathway in pathways)


def train_only(net: nn.Module, wanted: Callable[[str], bool]) -> tuple[str, ...]:
    """Enable gradients of the parameters whose name `wanted` accepts, and disable all others.

    Returns:
        Names of the trained parameters.
    """
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(wanted(name))
    return tuple(name for name, parameter in net.named_parameters() if parameter.requires_grad)
