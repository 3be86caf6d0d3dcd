"""Add an fp16 graph to a test bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gcis_runtime.bundles.manifest import Graph
from tests.support.bundles_and_images import ROI, conv_weights, list_graph

FILE = "model.fp16.onnx"


def add_half(folder: Path, *, factor: float = 1.0, **fields: Any) -> Path:
    """Add an fp16 graph; another factor than 1 gives wrong logits. Return the folder.

    Args:
        folder: Bundle of `write_bundle`.
        factor: Factor on the weights.
        **fields: Fields of the manifest to replace.
    """
    write_half(folder / FILE, factor=factor)
    graph = Graph(file=FILE, precision="fp16", opset=18, nodes=3, weights_dtype="float16")
    list_graph(folder, graph, **fields)
    return folder


def write_half(path: Path, *, factor: float = 1.0) -> None:
    """Write the test network in fp16; another factor than 1 gives wrong logits."""
    kernel, bias = ((w * factor).astype(np.float16) for w in conv_weights())
    nodes = [
        helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["half", "kernel", "bias"], ["out"], pads=[1] * 6),
        helper.make_node("Cast", ["out"], ["margins"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, *ROI])],
        [helper.make_tensor_value_info("margins", TensorProto.FLOAT, [1, 2, *ROI])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(bias, "bias")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
