"""Which parameters a training changes: the parts of a network that fine-tuning freezes and frees."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from torch import nn

from gcis_train.nets.pathway import Pathway

_BLOCK = re.compile(r"decoder\.positions\.(\d+)\.blocks\.(\d+)\.")


def is_encoder(name: str) -> bool:
    """Tell whether a parameter is the encoder's."""
    return name.startswith("encoder.")


def is_router(name: str) -> bool:
    """Tell whether a parameter is a router's."""
    return name.startswith("routers.")


def is_block(name: str) -> bool:
    """Tell whether a parameter is a routed block's, of any pathway."""
    return _BLOCK.match(name) is not None


def on_pathways(name: str, pathways: Iterable[Pathway]) -> bool:
    """Tell whether a parameter is of a routed block that one of the pathways uses."""
    match = _BLOCK.match(name)
    if match is None:
        return False
    position, choice = int(match[1]), int(match[2])
    return any(pathway.choices[position] == choice for pathway in pathways)


def train_only(net: nn.Module, wanted: Callable[[str], bool]) -> tuple[str, ...]:
    """Let gradients reach the parameters that `wanted` accepts by name, and no other.

    Returns:
        The names of the trained parameters.
    """
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(wanted(name))
    return tuple(name for name, parameter in net.named_parameters() if parameter.requires_grad)
