"""Emulate a strongly typed graph in float32 arithmetic with the same roundings.

The CPU provider of ONNX Runtime has no bfloat16 convolution and computes float16 convolutions in float32, so
it cannot reproduce the results of a typed graph. The emulated graph computes every operator in float32 and
rounds each value that the typed graph stores in 16 bits. An engine that accumulates in float32 gives the same
results except for the order of summation.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from gcis_export.precision.typed import value_types

_LOW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_MOVES = frozenset({"Reshape", "Transpose", "Split", "Concat", "Gather", "Slice", "Pad"})  # no rounding


def emulated(typed: onnx.ModelProto, *, steps: bool = False) -> onnx.ModelProto:
    """Return a float32 graph that rounds the values that a typed graph stores in 16 bits.

    Run it without graph optimizations, which may remove a Cast to 16 bits and back.

    Args:
        typed: Graph returned by `typed_graph`.
        steps: Round after every step within 16-bit norms and softmax, as in an engine that computes them in
            16 bits throughout; otherwise round only their results.
    """
    types = value_types(typed)
    nodes: list[NodeProto] = []
    extra: list[TensorProto] = []
    for original in typed.graph.node:
        node = original
        low = next((types[name] for name in node.output if types[name] in _LOW), None)
        if node.op_type == "Cast" and types[node.output[0]] in (TensorProto.FLOAT, *_LOW):
            node = helper.make_node("Identity", list(node.input), list(node.output), name=node.name)
        if low is None or node.op_type in _MOVES:
            nodes.append(node)
        elif steps and node.op_type in _STEPS:
            nodes += _in_steps(node, low, extra)
        else:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.output[0] = f"{node.output[0]}.exact"
            nodes += [copy, *_rounding(node.output[0], low)]
    weights = [_widened(t) if t.data_type in _LOW else t for t in typed.graph.initializer]
    graph = helper.make_graph(
        nodes, "gcis", typed.graph.input, typed.graph.output, initializer=[*weights, *extra]
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=list(typed.opset_import), producer_name="gcis", ir_version=typed.ir_version
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _rounding(name: str, element: int) -> list[NodeProto]:
    """Return the Casts from `name.exact` through a 16-bit type to `name`."""
    return [
        helper.make_node("Cast", [f"{name}.exact"], [f"{name}.low"], name=f"{name}.round", to=element),
        helper.make_node("Cast", [f"{name}.low"], [name], name=f"{name}.widen", to=TensorProto.FLOAT),
    ]


_NORM = (
    ("ReduceMean", ("x", "axes"), "mean"),
    ("Sub", ("x", "mean"), "centred"),
    ("Mul", ("centred", "centred"), "square"),
    ("ReduceMean", ("square", "axes"), "variance"),
    ("Add", ("variance", "epsilon"), "raised"),
    ("Sqrt", ("raised",), "deviation"),
    ("Div", ("centred", "deviation"), "normal"),
    ("Mul", ("normal", "scale"), "scaled"),
    ("Add", ("scaled", "shift"), "y"),
)
_SOFTMAX = (
    ("ReduceMax", ("x", "axes"), "top"),
    ("Sub", ("x", "top"), "below"),
    ("Exp", ("below",), "power"),
    ("ReduceSum", ("power", "axes"), "sum"),
    ("Div", ("power", "sum"), "y"),
)
_STEPS = {"InstanceNormalization": _NORM, "LayerNormalization": _NORM, "Softmax": _SOFTMAX}


def _in_steps(node: NodeProto, low: int, extra: list[TensorProto]) -> list[NodeProto]:
    """Return the steps of a norm or softmax, each followed by rounding; append their constants to `extra`."""
    end = node.output[0]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    spatial = node.op_type == "InstanceNormalization"
    names = {"x": node.input[0], "y": end, "axes": f"{end}.axes", "epsilon": f"{end}.epsilon"}
    axes = [2, 3, 4] if spatial else [-1]
    extra.append(numpy_helper.from_array(np.array(axes), name=names["axes"]))
    epsilon = np.array(attributes.get("epsilon", 1e-5), np.float32)
    extra.append(numpy_helper.from_array(epsilon, name=names["epsilon"]))
    nodes = []
    if node.op_type != "Softmax":
        names |= {"scale": node.input[1], "shift": node.input[2] if len(node.input) > 2 else f"{end}.zero"}
        extra.append(numpy_helper.from_array(np.zeros(1, np.float32), name=f"{end}.zero"))
        if spatial:  # (C,) -> (C, 1, 1, 1)
            extra.append(numpy_helper.from_array(np.array([-1, 1, 1, 1]), name=f"{end}.shape"))
            for what in ("scale", "shift"):
                wide = f"{end}.{what}"
                nodes.append(helper.make_node("Reshape", [names[what], f"{end}.shape"], [wide]))
                names[what] = wide
    for op, inputs, output in _STEPS[node.op_type]:
        name = names.setdefault(output, f"{end}.{output}")
        nodes.append(helper.make_node(op, [names[i] for i in inputs], [f"{name}.exact"]))
        nodes += _rounding(name, low)
    return nodes


def _widened(tensor: TensorProto) -> TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name=tensor.name)
