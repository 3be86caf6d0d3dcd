"""What an engine computes in, read from its own layers.

A graph of one precision does not make an engine of that precision: an fp32 graph gives an fp32 engine without
a word, whatever was wished for. TensorRT describes an engine's layers in three spellings: the builder's log
(which needs no GPU), the inspector's JSON of newer versions (`"Datatype": "Half"`) and of older ones
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
    """Return what the convolutions in a builder's log compute in; None where it lists none."""
    found = ((m["kind"], m["inputs"]) for m in _LINE.finditer(text))
    return _most((kind, _datatype(inputs)) for kind, inputs in found)


def precision_in_report(report: str) -> Precision | None:
    """Return what the convolutions in an inspector's JSON compute in; None where it lists none."""
    try:
        layers = json.loads(report).get("Layers", [])
    except (ValueError, AttributeError):
        return None
    return _most(
        (str(layer.get("LayerType", "")), _datatype(json.dumps(layer.get("Inputs", []))))
        for layer in layers
        if isinstance(layer, dict)  # without details layers are names alone
    )


def precision_of_network(network: Any) -> Precision | None:
    """Return what the convolutions of a strongly typed network take: what its engine has to compute in."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    # In an INT8 graph a convolution takes what a Dequantize gives: 8 bits in the engine, float here.
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
    """Return what the convolutions compute in, else the matrix products; see `computed_in`."""
    found = [(kind, precision) for kind, precision in layers if precision is not None]
    for pattern in (_CONVOLUTION, _PRODUCT):
        counts = collections.Counter(precision for kind, precision in found if pattern.search(kind))
        if counts:
            return computed_in(counts)
    return None
