"""Convert a float32 graph to a strongly typed 16-bit graph, which fixes the precision of each operator.

The graph is first rewritten (`graph/rewrite`). Convolutions and matrix products then compute in 16 bits
(engines accumulate them in float32); the operators in `KEEP_FLOAT` compute in float32 between two Casts.
Layer norm needs no Cast: by its `stash_type`, it computes in float32 for any input type. Instance norm has no
such attribute, but engines compute its statistics of float16 values in float32. Operators that only move or
join values have the type of their input. Input and output of the graph stay float32, so that every session
can run every graph.

The choice of float32 operators is based on measurements: docs/decisions/0023-precision.md.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from gcis_export.graph.rewrite.apply import REWRITES, Rewrite, rewritten
from gcis_runtime.errors import ParityError

LowPrecision = Literal["fp16", "bf16"]

KEEP_FLOAT: dict[LowPrecision, frozenset[str]] = {
    "fp16": frozenset(),
    # TensorRT-RTX 1.7 has no bfloat16 transposed convolution (the five take 2 % of the multiplications), and
    # cannot build every graph with bfloat16 instance norms.
    "bf16": frozenset({"InstanceNormalization", "ConvTranspose"}),
}
"""Operators that stay in float32."""

_ELEMENT = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_OPSET = {"fp16": 20, "bf16": 22}  # bfloat16 convolutions and instance norms need opset 22
_COMPUTE = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "LayerNormalization", "InstanceNormalization"}
)
_MOVES = frozenset({"Reshape", "Split", "Pad", "Slice", "Gather"})
"""Operators whose first input is data and whose others are shapes or indices (except the third of Pad)."""


def typed_graph(
    model: onnx.ModelProto,
    precision: LowPrecision,
    *,
    keep: Collection[str] | None = None,
    rewrites: Sequence[Rewrite] = REWRITES,
) -> onnx.ModelProto:
    """Return a copy of a graph with 16-bit types.

    Args:
        model: Float32 graph written by `gcis_export.graph.write.to_onnx`.
        precision: `"fp16"` or `"bf16"`.
        keep: Operators that compute in float32; None uses `KEEP_FLOAT`.
        rewrites: Rewrites of the float32 graph.

    Raises:
        ParityError: A weight exceeds the range of float16.
    """
    typed = rewritten(model, rewrites)
    kept = KEEP_FLOAT[precision] if keep is None else frozenset(keep)
    _Typing(typed.graph, _ELEMENT[precision], kept).run()
    del typed.opset_import[:]
    typed.opset_import.append(helper.make_opsetid("", _OPSET[precision]))
    onnx.checker.check_model(typed, full_check=True)
    return typed


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type (`TensorProto.DataType`) of every value, from strict shape inference."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {t.name: int(t.data_type) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = int(value.type.tensor_type.elem_type)
    return types


class _Typing:
    """Assign a type to each value of a graph in one pass; insert a Cast where a node needs another type."""

    def __init__(self, graph: onnx.GraphProto, low: int, keep: frozenset[str]) -> None:
        self.graph, self.low, self.keep = graph, low, keep
        self.constants = {t.name: t for t in graph.initializer}
        self.types: dict[str, int] = {v.name: TensorProto.FLOAT for v in graph.input}
        self.nodes: list[NodeProto] = []
        self.made: dict[tuple[str, int], str] = {}  # name of each value or weight in the other type

    def run(self) -> None:
        """Rewrite the graph in place."""
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
        """Append a node whose inputs have the type that it computes in."""
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
        return int(TensorProto.FLOAT)  # moves and sums keep the wider type of their inputs

    def _is_value(self, node: NodeProto, place: int, name: str) -> bool:
        """Return whether an input is a float value whose type can be changed."""
        if not name or (node.op_type in _MOVES and place and (node.op_type, place) != ("Pad", 2)):
            return False
        if name in self.constants:
            return bool(self.constants[name].data_type == TensorProto.FLOAT)
        return self.types[name] in (TensorProto.FLOAT, self.low)

    def _as(self, name: str, element: int) -> str:
        """Return the name of a value or weight in a type, adding it to the graph if necessary."""
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
            fix="Export with --precision bf16, which has the range of float32.",
        )
    return numpy_helper.from_array(low, name=name)
