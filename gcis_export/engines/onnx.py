"""Describe ONNX Runtime, which loads an ONNX graph directly and is always installed."""

from __future__ import annotations

import collections
import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort

from gcis_export.options import BuildOptions, Precision
from gcis_runtime.engines.layer_precision import computed_in

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
"""fp16 runs on CUDA only. The convolutions of an INT8 graph run in float32, so int8 is not offered."""

_ELEMENTS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "int8",
}
_QUANTISED = ("QLinearConv", "ConvInteger")


def check(_options: BuildOptions) -> None:
    """Do nothing: ONNX Runtime is a dependency of the runtime."""


def read_precision(file: Path) -> str:
    """Return the precision in which the convolutions run on the CPU: `"fp32"`, `"int8"`, ...

    ONNX Runtime inserts type conversions and fuses operators, so the precision is read from the graph that it
    has optimized.

    Args:
        file: The ONNX file.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, "optimized.onnx")
        options = ort.SessionOptions()
        options.log_severity_level = 4  # no warning that the file is specific to this machine
        options.optimized_model_filepath = str(optimized)
        ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(optimized).graph
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
    """Return the element type of a weight, stored or computed by Cast or DequantizeLinear; 0 if unknown."""
    if name in elements:
        return elements[name]
    maker = makers.get(name)
    if maker is None:
        return 0
    if maker.op_type == "Cast":
        return next(int(a.i) for a in maker.attribute if a.name == "to")
    return elements.get(maker.input[1], 0)  # the scale has the type of the output
