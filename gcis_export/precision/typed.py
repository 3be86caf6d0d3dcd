"""A float32 graph as a strongly typed one: the precision stands in the file, never in a builder's flag.

Convolutions and matrix products compute in 16 bits (their engines add up in float32); the operators of
`KEEP_FLOAT` compute in float32 between two Casts. Layer norm needs none: ONNX says that it computes in
float32 (`stash_type`) whatever its input is. Everything that only moves or joins values takes the type of
what it reads. Input and output of the graph stay float32, so every session runs every file.

What is kept in float32 was measured: docs/decisions/0023-precision.md.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from gcis_runtime.errors import ParityError

LowPrecision = Literal["fp16", "bf16"]

KEEP_FLOAT: dict[LowPrecision, frozenset[str]] = {
    "fp16": frozenset({"InstanceNormalization"}),
    # TensorRT-RTX 1.7 has no transposed convolution in bfloat16; the five hold 2 % of the multiplications.
    "bf16": frozenset({"InstanceNormalization", "ConvTranspose"}),
}
"""Operators that stay in float32."""

_ELEMENT = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_OPSET = {"fp16": 20, "bf16": 22}  # opset 22 gave convolutions and instance norm their bfloat16 form
_COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LayerNormalization"})
_MOVES = frozenset({"Reshape", "Split", "Pad", "Slice", "Gather"})
"""Operators whose first input alone is data; the others say where it goes (but Pad's third, what it adds)."""


def typed_graph(
    model: onnx.ModelProto, precision: LowPrecision, *, keep: Collection[str] | None = None
) -> onnx.ModelProto:
    """Return a copy of a graph with 16-bit types written into it.

    Args:
        model: A float32 graph of `gcis_export.graph.write.to_onnx`.
        precision: `"fp16"` or `"bf16"`.
        keep: Operators that compute in float32; None takes `KEEP_FLOAT`.

    Raises:
        ParityError: A weight is too large for float16.
    """
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    kept = KEEP_FLOAT[precision] if keep is None else frozenset(keep)
    _Typing(typed.graph, _ELEMENT[precision], kept).run()
    del typed.opset_import[:]
    typed.opset_import.append(helper.make_opsetid("", _OPSET[precision]))
    onnx.checker.check_model(typed, full_check=True)
    return typed


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type (`TensorProto.DataType`) of every value, by strict inference."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {t.name: int(t.data_type) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = int(value.type.tensor_type.elem_type)
    return types


class _Typing:
    """One pass over a graph in order: what type each value has, and a Cast where a reader wants another."""

    def __init__(self, graph: onnx.GraphProto, low: int, keep: frozenset[str]) -> None:
        self.graph, self.low, self.keep = graph, low, keep
        self.constants = {t.name: t for t in graph.initializer}
        self.types: dict[str, int] = {v.name: TensorProto.FLOAT for v in graph.input}
        self.nodes: list[NodeProto] = []
        self.made: dict[tuple[str, int], str] = {}  # values and weights that exist in the other type

    def run(self) -> None:
        """Rewrite the graph."""
        outputs = {v.name for v in self.graph.output}
        for node in self.graph.node:
            self._place(node)
        for name in outputs:
            if self.types[name] != TensorProto.FLOAT:
                self._end_in_float(name)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        read = {name for node in self.nodes for name in node.input}
        kept = [t for t in self.graph.initializer if t.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _place(self, node: NodeProto) -> None:
        """Add a node with its inputs in the type that it computes in."""
        places = [i for i, name in enumerate(node.input) if self._is_value(node, i, name)]
        wanted = self._wanted(node, [node.input[i] for i in places])
        for i in places:
            node.input[i] = self._as(node.input[i], wanted)
        for name in node.output:
            self.types[name] = wanted if places else TensorProto.INT64
        if node.op_type == "Equal":
            self.types[node.output[0]] = TensorProto.BOOL
        self.nodes.append(node)

    def _wanted(self, node: NodeProto, values: list[str]) -> int:
        if node.op_type in self.keep:
            return int(TensorProto.FLOAT)
        found = {self.types[name] for name in values if name in self.types}
        if node.op_type in _COMPUTE or TensorProto.FLOAT not in found:
            return self.low
        return int(TensorProto.FLOAT)  # what only passes on or adds keeps the wider type of what it reads

    def _is_value(self, node: NodeProto, place: int, name: str) -> bool:
        """Tell whether an input is a float that a type can be chosen for."""
        if not name or (node.op_type in _MOVES and place and (node.op_type, place) != ("Pad", 2)):
            return False
        if name in self.constants:
            return bool(self.constants[name].data_type == TensorProto.FLOAT)
        return self.types[name] in (TensorProto.FLOAT, self.low)

    def _as(self, name: str, element: int) -> str:
        """Return the name of a value or weight in a type, made where it does not exist yet."""
        constant = self.constants.get(name)
        if (TensorProto.FLOAT if constant is not None else self.types[name]) == element:
            return name
        if (name, element) not in self.made:
            other = f"{name}.{TensorProto.DataType.Name(element).lower()}"
            if constant is not None:
                self.graph.initializer.append(_converted(constant, element, other))
            else:
                self.nodes.append(helper.make_node("Cast", [name], [other], name=f"{other}.cast", to=element))
                self.types[other] = element
            self.made[name, element] = other
        return self.made[name, element]

    def _end_in_float(self, name: str) -> None:
        inner = f"{name}.inner"
        for node in self.nodes:
            for names in (node.input, node.output):
                for place, found in enumerate(names):
                    if found == name:
                        names[place] = inner
        cast = helper.make_node("Cast", [inner], [name], name=f"{name}.cast", to=TensorProto.FLOAT)
        self.nodes.append(cast)


def _converted(tensor: TensorProto, element: int, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        low = values.astype(helper.tensor_dtype_to_np_dtype(element))
    if not np.isfinite(low.astype(np.float32)).all():
        raise ParityError(
            f"a weight is too large for {name.rpartition('.')[2]}",
            received=f"{tensor.name} with values up to {np.abs(values).max():g}",
            expected="at most 65504",
            fix="Export with --precision bf16, which has float32's range.",
        )
    return numpy_helper.from_array(low, name=name)
