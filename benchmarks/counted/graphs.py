"""Count the work of graphs in every precision, and what each rewrite of the 16-bit graphs removes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from benchmarks.graphs import describe, moved_bytes, multiplications, run_operators
from gcis_export.graph.optimize import node_types
from gcis_export.graph.rewrite.apply import REWRITES
from gcis_export.precision.typed import LowPrecision, typed_graph

KINDS = ("Cast", "Pad", "Transpose", "Split", "Concat", "Gather")
LOW: tuple[LowPrecision, ...] = ("fp16", "bf16")


def graph_counts(name: str, model: onnx.ModelProto) -> dict[str, float]:
    """Return operators, Casts, moved bytes, size in bytes and FLOPs of a graph.

    Args:
        name: End of the names of the counts.
        model: ONNX graph.
    """
    weights = sum(int(np.prod(t.dims)) * 4 for t in model.graph.initializer)
    facts = describe(model, weights)
    return {
        f"nodes, {name}": facts["nodes"],
        f"operators, {name}": run_operators(model),
        f"casts, {name}": node_types(model)["Cast"],
        f"moved, {name}": moved_bytes(model),
        f"bytes, {name}": facts["bytes"],
        f"flops, {name}": 2 * multiplications(model),
    }


def precision_counts(name: str, model: onnx.ModelProto) -> dict[str, float]:
    """Return the counts of a float32 graph and of its 16-bit graphs."""
    found = graph_counts(name, model)
    for precision in LOW:
        found |= graph_counts(f"{name}, {precision}", typed_graph(model, precision))
    return found


def rewrite_steps(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """Return the counts of a float16 graph after each rewrite, starting with the float32 graph."""
    wide = typed_graph(model, "fp16", keep={"InstanceNormalization"}, rewrites=())
    steps = [("float32", model), ("float16, norms in float32", wide)]
    for count in range(len(REWRITES) + 1):
        name = REWRITES[count - 1].__name__ if count else "norms in float16"
        steps.append((name, typed_graph(model, "fp16", rewrites=REWRITES[:count])))
    rows = []
    for name, graph in steps:
        types = node_types(graph)
        rows.append(
            {
                "step": name,
                "nodes": sum(types.values()),
                "operators": run_operators(graph),
                "moved": moved_bytes(graph),
                "types": {kind: types[kind] for kind in KINDS},
            }
        )
    return rows
