"""ONNX Runtime: reads the bundle's graph as it is; always there."""

from __future__ import annotations

import collections
import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort

from gcis_runtime.bundles.manifest import Precision
from gcis_runtime.engines.layer_precision import computed_in

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
"""fp16 is computed on CUDA alone. An INT8 graph's convolutions run in float32: no kernel takes them."""

_ELEMENTS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "int8",
}
_QUANTISED = ("QLinearConv", "ConvInteger")


def check() -> None:
    """Nothing to check: the runtime depends on it."""


def read_precision(file: Path) -> str:
    """Return what the convolutions really compute in on the CPU: `"fp32"`, `"int8"`, ...

    ONNX Runtime widens and fuses as it likes; the graph that it makes of the file says what came of it.

    Args:
        file: The ONNX file.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "made.onnx")
        options = ort.SessionOptions()
        options.log_severity_level = 4  # it warns that what it writes is for this machine
        options.optimized_model_filepath = str(made)
        ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(made).graph
    elements = {tensor.name: tensor.data_type for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    found: collections.Counter[str] = collections.Counter()
    for node in graph.node:
        if node.op_type in _QUANTISED:
            found["int8"] += 1
        elif "Conv" in node.op_type:
            found[_ELEMENTS.get(_element(node.input[1], elements, makers), "unknown")] += 1
    return computed_in(found) or "unknown"


def _element(name: str, elements: dict[str, int], makers: dict[str, onnx.NodeProto]) -> int:
    """Return the element type of a weight: stored, or made by a Cast or a DequantizeLinear; 0 if unknown."""
    if name in elements:
        return elements[name]
    maker = makers.get(name)
    if maker is None:
        return 0
    if maker.op_type == "Cast":
        return next(int(a.i) for a in maker.attribute if a.name == "to")
    return elements.get(maker.input[1], 0)  # a scale has the type of what it gives
