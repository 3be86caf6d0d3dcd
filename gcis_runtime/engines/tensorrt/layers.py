"""Read the precision in which a TensorRT engine computes from the description of its layers.

The precision of an engine is verified, since TensorRT builds an fp32 engine from an fp32 graph without a
warning when another precision was requested. It describes layers in three formats: the log of the builder
(which needs no GPU), the inspector's JSON of newer versions (`"Datatype": "Half"`) and of older versions
(`"Format/Datatype": "... FP16 format"`).
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterator
from typing import Any

from gcis_runtime.bundles.manifest import Precision
from gcis_runtime.engines.layer_precision import computed_in

_NAMES: dict[str, Precision] = {
    "float": "fp32",
    "fp32": "fp32",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "int8": "int8",
}
_TYPE = re.compile(r"\b(float|fp32|half|fp16|bfloat16|bf16|int8)\b", re.IGNORECASE)
_LINE = re.compile(r"LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], (?:Constants|Outputs)", re.DOTALL)
_CONVOLUTION = re.compile(r"conv|correlation", re.IGNORECASE)
_PRODUCT = re.compile(r"gemm|matmul|matrixmultiply|contraction", re.IGNORECASE)


def precision_in_log(text: str) -> Precision | None:
    """Return the precision of the convolutions in a builder's log; None if the log lists no layers."""
    found = ((m["kind"], m["inputs"]) for m in _LINE.finditer(text))
    return _most((kind, _datatype(inputs)) for kind, inputs in found)


def precision_in_report(report: str) -> Precision | None:
    """Return the precision of the convolutions in an inspector's JSON; None if it has no details."""
    try:
        layers = json.loads(report).get("Layers", [])
    except (ValueError, AttributeError):
        return None
    return _most(
        (str(layer.get("LayerType", "")), _datatype(json.dumps(layer.get("Inputs", []))))
        for layer in layers
        if isinstance(layer, dict)  # without details, layers are strings
    )


def precision_of_network(network: Any) -> Precision | None:
    """Return the input precision of convolutions in a strongly typed network, which its engine keeps."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    # In an INT8 graph, convolutions read from Dequantize: float in the network, 8 bits in the engine.
    integers = {layer.get_output(0).name for layer in layers if layer.type.name == "DEQUANTIZE"}
    return _most(
        (
            layer.type.name,
            "int8" if layer.get_input(0).name in integers else _datatype(layer.get_input(0).dtype.name),
        )
        for layer in layers
        if layer.num_inputs
    )


def _datatype(text: str) -> Precision | None:
    match = _TYPE.search(text)
    return None if match is None else _NAMES[match[1].lower()]


def _most(layers: Iterator[tuple[str, Precision | None]]) -> Precision | None:
    """Return the precision of the convolutions, or of the matrix products without any; see `computed_in`."""
    found = [(kind, precision) for kind, precision in layers if precision is not None]
    for pattern in (_CONVOLUTION, _PRODUCT):
        counts = collections.Counter(precision for kind, precision in found if pattern.search(kind))
        if counts:
            return computed_in(counts)
    return None
