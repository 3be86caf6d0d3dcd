"""What prompts cost in one bundle: operators, bytes, multiplications and time against their number."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.environment import environment
from benchmarks.graph import describe, seeded
from benchmarks.turns import Say, take_turns
from gcis_export.graph.network import ExportNet
from gcis_export.graph.write import to_onnx
from gcis_train.nets.pathway import Pathway

KINDS = {"shared": 6, "partly shared": 3, "disjoint": 0}
"""Positions that all prompts have in common: all but the last, the first three, none."""


def cost(
    *, feature_size: int, roi: int, counts: tuple[int, ...], rounds: int, threads: int, say: Say
) -> dict[str, Any]:
    """Export N prompts of each kind and time the graphs.

    Args:
        feature_size: Channels of the first stage.
        roi: Window, voxels along each axis.
        counts: Numbers of prompts; 1 is the same for every kind.
        rounds: Turns of each graph in each engine.
        threads: CPU threads.
        say: Told of each step.

    Returns:
        The record, ready for JSON.
    """
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path] = {}
        for kind, common in KINDS.items():
            for count in counts:
                if count == 1 and kind != "shared":
                    continue
                name = f"{kind}, {count}" if count > 1 else "1"
                say(f"exporting: {name}")
                network = seeded(pathways(count, common), feature_size)
                weights = 4 * sum(p.numel() for p in network.parameters())
                model = to_onnx(ExportNet(network, (roi, roi, roi)))
                facts = describe(model, weights)
                rows[name] = {
                    "kind": kind,
                    "prompts": count,
                    "nodes": facts["nodes"],
                    "bytes": facts["bytes"],
                    "giga_multiplications": round(multiplications(model) / 1e9, 2),
                }
                files[name] = Path(folder, f"{len(files)}.onnx")
                files[name].write_bytes(model.SerializeToString())
        for name, engines in take_turns(files, rounds=rounds, threads=threads, say=say).items():
            rows[name]["engines"] = engines
            for engine, found in engines.items():
                one = rows["1"]["engines"][engine]["cpu_seconds"]
                found["times_one_prompt"] = round(found["cpu_seconds"] / one, 2)
    return {
        "what": "prompts",
        "environment": environment(),
        "feature_size": feature_size,
        "roi": roi,
        "common_positions": KINDS,
        "rounds": rounds,
        "threads": threads,
        "note": "a window with all prompts; the machine was shared, so compare CPU seconds",
        "rows": list(rows.values()),
    }


def pathways(count: int, common: int) -> list[Pathway]:
    """Return distinct pathways that have their first `common` positions in common and no later one."""
    return [Pathway((0,) * common + (n,) * (7 - common)) for n in range(count)]


def multiplications(model: onnx.ModelProto) -> int:
    """Count the multiplications of a graph's convolutions and matrix products."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    total = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
            continue
        image, weight, out = (shapes[n] for n in (node.input[0], node.input[1], node.output[0]))
        if node.op_type == "Conv":
            total += int(np.prod(out)) * int(np.prod(weight[1:]))
        elif node.op_type == "ConvTranspose":
            total += int(np.prod(image)) * int(np.prod(weight[1:]))
        else:
            total += int(np.prod(out)) * int(image[-1])
    return total
