"""Add the residual connection of an MLP within its second linear layer.

A Gemm adds either a bias or a matrix. Here it adds the residual connection, and the bias becomes the weight
of a hidden unit of constant output: the unit has weight 0 and bias 8, and the GELU of 8 is 8 in every
precision. This saves an Add and the pass over the tokens that adds the bias.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from gcis_export.graph.rewrite.draft import Draft

UNIT = 8.0
"""Output of the constant hidden unit: GELU(8) = 8 (1 - 6e-16)."""
UNITS = 8
"""Hidden units that are added, so that rows stay multiples of 16 bytes; all but one are 0."""


def add_residual(draft: Draft, *, sparing: bool = False) -> None:
    """Rewrite Gemm, Gelu, Gemm, Add as Gemm, Gelu, Gemm.

    Args:
        draft: The graph.
        sparing: Keep layers with more weights than the Add has elements: changed weights cannot be shared.
    """
    for total in [node for node in draft.nodes if node.op_type == "Add"]:
        for last, skip in (total.input, reversed(total.input)):
            second = draft.maker(last, "Gemm")
            gelu = None if second is None else draft.maker(second.input[0], "Gelu")
            first = None if gelu is None else draft.maker(gelu.input[0], "Gemm")
            if second is None or gelu is None or first is None or len(second.input) != 3:
                continue
            if sparing and _weights(draft, first, second) > int(np.prod(draft.shapes[skip])):
                continue
            alone = all(draft.reader(n.output[0]) is not None for n in (first, gelu, second))
            if alone and len(first.input) == 3 and draft.shapes.get(last) == draft.shapes.get(skip):
                _rewrite(draft, (first, gelu, second, total), skip)


def _weights(draft: Draft, *layers: NodeProto) -> int:
    """Return the number of weights of layers."""
    return sum(int(np.prod(draft.shapes[layer.input[1]])) for layer in layers)


def _rewrite(draft: Draft, nodes: tuple[NodeProto, ...], skip: str) -> None:
    first, gelu, second, total = nodes
    wide, bias = draft.constant(first.input[1]), draft.constant(first.input[2])
    narrow, offset = draft.constant(second.input[1]), draft.constant(second.input[2])
    if wide is None or bias is None or narrow is None or offset is None:
        return
    name = total.output[0]
    unit = np.zeros(UNITS, np.float32)
    unit[0] = UNIT
    more = np.zeros((len(narrow), UNITS), np.float32)
    more[:, 0] = offset / UNIT
    inputs = [
        first.input[0],
        draft.add(f"{first.input[1]}.unit", np.pad(wide, ((0, UNITS), (0, 0)))),
        draft.add(f"{first.input[2]}.unit", np.concatenate([bias, unit])),
    ]
    weight = draft.add(f"{second.input[1]}.unit", np.concatenate([narrow, more], axis=1))
    hidden = helper.make_node("Gelu", [f"{name}.hidden"], [f"{name}.active"])
    hidden.attribute.extend(gelu.attribute)
    new = [
        helper.make_node("Gemm", inputs, [f"{name}.hidden"], transB=1),
        hidden,
        helper.make_node("Gemm", [f"{name}.active", weight, skip], [name], transB=1),
    ]
    draft.replace(total, new)
