"""Build networks with seeded weights, and count operators, bytes and multiplications of an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import torch

from gcis_export.graph.optimize import FORBIDDEN, node_types
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import StaticGcisNet
from gcis_train.nets.pathway import Pathway


def seeded(pathways: list[Pathway], feature_size: int, *, blocks: int = 1) -> StaticGcisNet:
    """Return a static network with seeded weights in evaluation mode.

    Args:
        pathways: One pathway per prompt.
        feature_size: Channels of the first stage.
        blocks: Minimum number of blocks per position.
    """
    torch.manual_seed(20_261)
    blocks = max(blocks, 1 + max(max(p.choices) for p in pathways))
    return StaticGcisNet(NetworkConfig(feature_size=feature_size, pathways=blocks), pathways).eval()


def describe(model: onnx.ModelProto, weights: int) -> dict[str, Any]:
    """Count the operators and bytes of a graph.

    Args:
        model: The graph.
        weights: Bytes of its weights in float32.
    """
    types = node_types(model)
    return {
        "nodes": sum(types.values()),
        "bytes": model.ByteSize(),
        "bytes_per_weight_byte": round(model.ByteSize() / weights, 4),
        "forbidden": {name: types[name] for name in sorted(FORBIDDEN) if types[name]},
        "operators": dict(types.most_common()),
    }


def multiplications(model: onnx.ModelProto) -> int:
    """Count the multiplications in convolutions and matrix products of a graph with static shapes."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    total = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
            continue
        image, weight, out = (shapes[n] for n in (node.input[0], node.input[1], node.output[0]))
        if node.op_type == "Conv":
            total += int(np.prod(out)) * int(np.prod(weight[1:]))
        elif node.op_type == "ConvTranspose":
            total += int(np.prod(image)) * int(np.prod(weight[1:]))
        else:
            total += int(np.prod(out)) * int(image[-1])
    return total


def run_operators(model: onnx.ModelProto) -> int:
    """Count the operators that run per window.

    Operators that depend on constants alone run once, when an engine loads the graph; a Reshape is a view.
    """
    return sum(node.op_type != "Reshape" for node in _variable(model))


def moved_bytes(model: onnx.ModelProto) -> int:
    """Count the bytes that the operators of a window read and write, each operator on its own.

    Engines that fuse operators move fewer. Weights count once per operator, a Reshape not at all.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes = {t.name: _bytes(t.data_type, t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        sizes[value.name] = _bytes(kind.elem_type, [d.dim_value for d in kind.shape.dim])
    return sum(
        sizes[name]
        for node in _variable(model)
        if node.op_type != "Reshape"
        for name in (*node.input, *node.output)
        if name
    )


def _variable(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the operators that depend on the input of the graph."""
    known = {value.name for value in model.graph.input}
    nodes = []
    for node in model.graph.node:
        if known.intersection(node.input):
            known.update(node.output)
            nodes.append(node)
    return nodes


def _bytes(element: int, shape: Iterable[int]) -> int:
    return int(np.prod(list(shape))) * int(onnx.helper.tensor_dtype_to_np_dtype(element).itemsize)
