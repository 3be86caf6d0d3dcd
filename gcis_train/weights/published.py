"""Translate parameter names of this package to those of the published network.

This package: `encoder.swin.*`, `encoder.encoderK.*`, `decoder.positions.P.{up,blocks.I}.*`, `routers.P.*`.
Published, routed: `swinViT.*`, `encoderK.layer.*`, `decoder10.layer_pI.*`, `decoderK.conv_block_pI.*`,
`out_pI.conv.conv.*`, `[position.]prompt_router.*`. Published, single-task: the same without `_pI`.
"""

from __future__ import annotations

import re

from gcis_runtime.bundles.manifest import POSITIONS

_CONV = re.compile(r"\b(conv1|conv2|conv2_2|conv3|transp_conv|concat_conv)\.weight$")


def published_name(name: str, *, single: bool) -> str:
    """Return the published name of a parameter of this package.

    Args:
        name: Key of `GcisNet.state_dict()` or `StaticGcisNet.state_dict()`.
        single: Return the name in the single-task network (no pathway numbers).
    """
    head, *rest = name.split(".")
    if name.startswith("encoder.swin."):
        return "swinViT." + name.removeprefix("encoder.swin.")
    if head == "encoder":
        return _wrap(f"{rest[0]}.layer.{'.'.join(rest[1:])}")
    position = POSITIONS[int(rest[0 if head == "routers" else 1])]
    if head == "routers":
        prefix = "" if position == "out" else f"{position}."
        return f"{prefix}prompt_router.{rest[-1]}"
    if rest[2] == "up":
        return _wrap(f"{position}.{'.'.join(rest[3:])}")
    number = "" if single else f"_p{rest[3]}"
    if position == "out":
        return f"out{number}.conv.conv.{rest[-1]}"
    block = "layer" if position == "decoder10" else "conv_block"
    return _wrap(f"{position}.{block}{number}.{'.'.join(rest[4:])}")


def _wrap(name: str) -> str:
    """Return the name with the wrapper module of the published convolutions inserted."""
    return _CONV.sub(lambda match: f"{match.group(1)}.conv.weight", name)
