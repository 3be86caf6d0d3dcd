"""Edit a graph: find makers and readers of values, replace operators, add constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper


class Draft:
    """Copy of a graph that rewrites change in place.

    Shapes are those of the original graph; a rewrite adds the shapes of the values that it creates if a later
    rewrite needs them.

    Args:
        model: Float32 graph with static shapes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        graph = onnx.shape_inference.infer_shapes(model).graph
        self.nodes: list[NodeProto] = list(self._model.graph.node)
        self._tensors = {t.name: t for t in self._model.graph.initializer}
        self.shapes = {t.name: tuple(t.dims) for t in graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            self.shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        self._outputs = {value.name for value in graph.output}
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._index()

    def _index(self) -> None:
        self._makers = {name: node for node in self.nodes for name in node.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def maker(self, name: str, *types: str) -> NodeProto | None:
        """Return the node that computes a value if its type is one of `types` (any if none are given)."""
        node = self._makers.get(name)
        return node if node is not None and (not types or node.op_type in types) else None

    def reader(self, name: str, *types: str) -> NodeProto | None:
        """Return the only node that reads a value if its type is one of `types`; None if several read it."""
        readers = self._readers.get(name, [])
        if len(readers) != 1 or name in self._outputs or (types and readers[0].op_type not in types):
            return None
        return readers[0]

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return the value of an initializer, or None for a computed value."""
        tensor = self._tensors.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def add(self, name: str, values: NDArray[Any]) -> str:
        """Add an initializer and return its name; equal initializers of the rewrites are stored once."""
        values = np.ascontiguousarray(values)
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._shared:
            self._shared[key] = name
            self._tensors[name] = numpy_helper.from_array(values, name=name)
            self.shapes[name] = values.shape
        return self._shared[key]

    def replace(self, old: NodeProto, new: Sequence[NodeProto]) -> None:
        """Replace a node; nodes that nothing reads any more are removed."""
        at = next(i for i, node in enumerate(self.nodes) if node is old)
        self.nodes[at : at + 1] = new
        while True:
            self._index()
            kept = [n for n in self.nodes if any(o in self._readers or o in self._outputs for o in n.output)]
            if len(kept) == len(self.nodes):
                return
            self.nodes = kept

    def finished(self) -> onnx.ModelProto:
        """Return the graph with numbered nodes and without unused initializers."""
        graph = self._model.graph
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        for number, node in enumerate(nodes):
            node.name = f"{node.op_type}_{number}"
        read = {name for node in nodes for name in node.input}
        tensors = [
            TensorProto.FromString(t.SerializeToString()) for n, t in self._tensors.items() if n in read
        ]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(tensors)
        onnx.checker.check_model(self._model, full_check=True)
        return self._model


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of an attribute, or a default."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
