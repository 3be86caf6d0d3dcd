"""Merge a transposed convolution with the 1x1x1 convolution of its concatenation.

The decoder concatenates the up-sampled features with the skip connection and applies a 1x1x1 convolution.
Both layers are linear: the convolution of the concatenation is the sum of a transposed convolution with the
product of both weights and a 1x1x1 convolution of the skip connection alone. This avoids the concatenation,
which copies the largest tensors of the network, and half of the multiplications of the 1x1x1 convolution.
"""

from __future__ import annotations

import numpy as np
from onnx import helper

from gcis_export.graph.rewrite.draft import Draft


def merge_up(draft: Draft, *, sparing: bool = False) -> None:
    """Rewrite ConvTranspose, Concat, Conv without biases as ConvTranspose, Conv, Add.

    Args:
        draft: The graph.
        sparing: Keep positions with more weights than the concatenation has elements: changed weights cannot
            be shared.
    """
    for conv in [node for node in draft.nodes if node.op_type == "Conv" and len(node.input) == 2]:
        joined = draft.maker(conv.input[0], "Concat")
        if joined is None or len(joined.input) != 2 or draft.reader(joined.output[0]) is None:
            continue
        up = draft.maker(joined.input[0], "ConvTranspose")
        weight = draft.constant(conv.input[1])
        if up is None or len(up.input) != 2 or weight is None or weight.shape[2:] != (1, 1, 1):
            continue
        up_weight = draft.constant(up.input[1])
        if up_weight is None or draft.reader(up.output[0]) is None:
            continue
        if sparing and up_weight.size > int(np.prod(draft.shapes[joined.output[0]])):
            continue
        channels = up_weight.shape[1]
        first, rest = weight[:, :channels, 0, 0, 0], weight[:, channels:]
        product = np.einsum("icxyz,oc->ioxyz", up_weight.astype(np.float64), first.astype(np.float64))
        name = conv.output[0]
        merged = helper.make_node(
            "ConvTranspose",
            [up.input[0], draft.add(f"{up.input[1]}.merged", product.astype(np.float32))],
            [f"{name}.up"],
        )
        merged.attribute.extend(up.attribute)
        skip = helper.make_node(
            "Conv", [joined.input[1], draft.add(f"{conv.input[1]}.skip", rest)], [f"{name}.skip"]
        )
        skip.attribute.extend(conv.attribute)
        total = helper.make_node("Add", [f"{name}.up", f"{name}.skip"], [name])
        draft.replace(conv, [merged, skip, total])
