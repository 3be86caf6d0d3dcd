"""Optimize the graph of the PyTorch exporter: fold shape arithmetic, join operators and remove metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnxscript.optimizer
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

FORBIDDEN = frozenset(
    {"ScatterND", "ScatterElements", "GatherND", "Shape", "If", "Loop", "NonZero", "SequenceAt", "Expand"}
)
"""Operators that a graph with static shapes does not need."""

_FOLD_ELEMENTS = 4096  # includes shapes, unit scales of norms and window orders; excludes biases and masks


def optimize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the exporter's model with folded shape arithmetic, joined operators and no metadata."""
    folded: onnx.ModelProto = onnxscript.optimizer.optimize(
        model, onnx_shape_inference=True, input_size_limit=_FOLD_ELEMENTS, output_size_limit=_FOLD_ELEMENTS
    )
    _join_slices(folded.graph)
    _fold_indices(folded.graph)
    _join_gathers(folded)
    _share_initializers(folded.graph)
    _drop_unused(folded.graph)
    return _clean_copy(folded)


def node_types(model: onnx.ModelProto) -> Counter[str]:
    """Return the number of nodes per operator type."""
    return Counter(node.op_type for node in model.graph.node)


def store_half(model: onnx.ModelProto, *, smallest: int) -> int:
    """Store float32 initializers as float16 with a Cast to float32 if all of their values are preserved.

    Args:
        model: Model to change in place.
        smallest: Minimum number of elements of a tensor to be stored as float16.

    Returns:
        Number of initializers that were stored as float16.
    """
    casts: list[NodeProto] = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < smallest:
            continue
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, name=f"{name}.half"))
        casts.append(
            helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return len(casts)


def restore_float(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with float32 initializers that `store_half` changed, without their Casts."""
    restored = onnx.ModelProto()
    restored.CopyFrom(model)
    half = {t.name: t for t in restored.graph.initializer if t.data_type == TensorProto.FLOAT16}
    for node in [n for n in restored.graph.node if n.op_type == "Cast" and n.input[0] in half]:
        tensor = half[node.input[0]]
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, name=node.output[0]))
        restored.graph.node.remove(node)
    return restored


def _join_slices(graph: onnx.GraphProto) -> None:
    """Join consecutive Slice operators along different axes."""
    values = _constants(graph)
    while True:
        readers, makers = _readers(graph), _makers(graph)
        pair = next((p for p in _pairs(graph, makers, readers, "Slice", "Slice")), None)
        if pair is None:
            return
        first, second = pair
        joined = [first.input[0]]
        for place, what in enumerate(("starts", "ends", "axes", "steps"), start=1):
            value = np.concatenate([values[first.input[place]], values[second.input[place]]])
            name = f"{second.output[0]}.{what}"
            values[name] = value
            graph.initializer.append(numpy_helper.from_array(value, name=name))
            joined.append(name)
        del second.input[:]
        second.input.extend(joined)
        graph.node.remove(first)


def _fold_indices(graph: onnx.GraphProto) -> None:
    """Replace the Reshape and Cast operators before the constant index of a Gather by a 32-bit constant."""
    values, makers = {t.name: t for t in graph.initializer}, _makers(graph)
    for gather in [n for n in graph.node if n.op_type == "Gather"]:
        chain: list[NodeProto] = []
        name = gather.input[1]
        while (maker := makers.get(name)) is not None and maker.op_type in ("Reshape", "Cast"):
            chain.append(maker)
            name = maker.input[0]
        if name not in values:
            continue
        index = numpy_helper.to_array(values[name])
        for node in reversed(chain):
            if node.op_type == "Reshape":
                index = index.reshape(numpy_helper.to_array(values[node.input[1]]))
        gather.input[1] = f"{gather.output[0]}.index"
        graph.initializer.append(numpy_helper.from_array(index.astype(np.int32), name=gather.input[1]))
    _drop_unread(graph)


def _join_gathers(model: onnx.ModelProto) -> None:
    """Replace Reshape, Gather, Reshape by one Gather with a two-dimensional index."""
    graph = model.graph
    makers, readers, shapes = _makers(graph), _readers(graph), _shapes(model)
    values = _constants(graph)
    for gather, shape in _pairs(graph, makers, readers, "Gather", "Reshape"):
        flat = makers.get(gather.input[1])
        if flat is None or flat.op_type != "Reshape" or shape.input[1] not in values:
            continue
        axis = next((a.i for a in gather.attribute if a.name == "axis"), 0)
        data, index = shapes[gather.input[0]], shapes[flat.input[0]]
        if (*data[:axis], *index, *data[axis + 1 :]) != tuple(values[shape.input[1]].tolist()):
            continue
        gather.input[1] = flat.input[0]
        gather.output[0] = shape.output[0]
        graph.node.remove(shape)
    _drop_unread(graph)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes whose outputs are unused."""
    ends = {value.name for value in graph.output}
    while True:
        readers = _readers(graph)
        unread = [n for n in graph.node if not any(o in readers or o in ends for o in n.output)]
        if not unread:
            return
        for node in unread:
            graph.node.remove(node)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the static shape of every value."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    return shapes


def _pairs(
    graph: onnx.GraphProto,
    makers: dict[str, NodeProto],
    readers: dict[str, list[NodeProto]],
    first: str,
    second: str,
) -> list[tuple[NodeProto, NodeProto]]:
    """Return pairs of consecutive operators of two types in which only the second reads the first."""
    found = []
    for node in graph.node:
        maker = makers.get(node.input[0]) if node.op_type == second and node.input else None
        if maker is not None and maker.op_type == first and len(readers[maker.output[0]]) == 1:
            found.append((maker, node))
    return found


def _share_initializers(graph: onnx.GraphProto) -> None:
    """Merge equal initializers."""
    kept: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    unique: list[TensorProto] = []
    for tensor in graph.initializer:
        values = np.ascontiguousarray(numpy_helper.to_array(tensor))
        key = (tensor.data_type, tuple(tensor.dims), values.tobytes())
        renamed[tensor.name] = kept.setdefault(key, tensor.name)
        if renamed[tensor.name] == tensor.name:
            unique.append(numpy_helper.from_array(values, name=tensor.name))
    del graph.initializer[:]
    graph.initializer.extend(unique)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove unused initializers."""
    read = {name for node in graph.node for name in node.input}
    used = [t for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(used)


def _clean_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with operators, weights, inputs and outputs only.

    Intermediate values are numbered in order, so that equal networks are written as equal bytes.
    """
    source = model.graph
    fixed = {t.name for t in source.initializer} | {v.name for v in (*source.input, *source.output)}
    names: dict[str, str] = {}

    def rename(name: str) -> str:
        return name if not name or name in fixed else names.setdefault(name, f"v{len(names)}")

    nodes = [_clean_node(node, index, rename) for index, node in enumerate(source.node)]
    ends = [
        helper.make_tensor_value_info(
            v.name, TensorProto.FLOAT, [d.dim_value for d in v.type.tensor_type.shape.dim]
        )
        for v in (*source.input, *source.output)
    ]
    count = len(source.input)
    graph = helper.make_graph(nodes, "gcis", ends[:count], ends[count:], initializer=list(source.initializer))
    clean: onnx.ModelProto = helper.make_model(
        graph,
        opset_imports=[
            helper.make_opsetid(o.domain, o.version) for o in model.opset_import if o.domain == ""
        ],
        producer_name="gcis",
        ir_version=10,  # the newest version that ONNX Runtime 1.20 reads
    )
    return clean


def _clean_node(node: NodeProto, index: int, rename: Callable[[str], str]) -> NodeProto:
    clean = NodeProto(op_type=node.op_type, domain=node.domain, name=f"{node.op_type}_{index}")
    clean.input.extend(rename(name) for name in node.input)
    clean.output.extend(rename(name) for name in node.output)
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        copied = clean.attribute.add()
        copied.CopyFrom(attribute)
        copied.doc_string = ""
    return clean


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.int64]]:
    """Return the small int64 initializers by name."""
    return {
        t.name: numpy_helper.to_array(t)
        for t in graph.initializer
        if t.data_type == TensorProto.INT64 and int(np.prod(t.dims)) <= _FOLD_ELEMENTS
    }


def _makers(graph: onnx.GraphProto) -> dict[str, NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def _readers(graph: onnx.GraphProto) -> dict[str, list[NodeProto]]:
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers
