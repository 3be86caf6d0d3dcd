"""Convert `model.onnx` to other precisions, and add graphs of other precisions and batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from gcis_export.bundle.shared_weights import shared_weights
from gcis_export.bundle.writer import write_graph
from gcis_export.gate.check_windows import Window
from gcis_export.gate.parity import Gate, Reference
from gcis_export.graph.rewrite.apply import REWRITES, SPARING
from gcis_export.graph.write import INPUT, OUTPUT
from gcis_export.options import Precision
from gcis_export.precision.compact import compacted
from gcis_export.precision.emulate import emulated
from gcis_export.precision.int8 import int8_graph
from gcis_export.precision.typed import typed_graph
from gcis_runtime.bundles.manifest import FileEntry, Graph, WeightsDtype, graph_file
from gcis_runtime.engines.parity import Logits

STAGES: dict[Precision, str] = {
    "fp32": "fp32 graph, operator by operator",
    "fp16": "fp16 graph, its roundings emulated",
    "bf16": "bf16 graph, its roundings emulated",
    "int8": "int8 graph, operator by operator",
}
"""Names of the graphs in the parity report; no engine optimizations are applied to them."""

_WEIGHTS: dict[Precision, WeightsDtype] = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "int8",
}


def convert(
    model: onnx.ModelProto, precision: Precision, *, calibration: Sequence[Window] = (), sharing: bool = False
) -> onnx.ModelProto:
    """Return a float32 graph in another precision.

    Args:
        model: Graph written by `to_onnx`, with weights stored as float32.
        precision: Precision of the returned graph.
        calibration: Windows (1, 1, X, Y, Z) that the INT8 ranges are calibrated on; unused otherwise.
        sharing: The graph shares weights with `model.onnx`; fp16 then keeps more of them unchanged.

    Raises:
        ParityError: A weight exceeds the range of the precision.
        ImageError: There are no calibration windows, or all of them are constant.
    """
    if precision == "fp32":
        return model
    if precision == "int8":
        batch = int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)
        return int8_graph(model, [_filled(calibration, k, batch) for k in range(0, len(calibration), batch)])
    typed = typed_graph(model, precision, rewrites=SPARING if sharing else REWRITES)
    return compacted(typed) if sharing else typed


def add_graph(
    folder: Path,
    converted: onnx.ModelProto,
    precision: Precision,
    *,
    gate: Gate,
    reference: Reference,
    weights_dtype: WeightsDtype | None = None,
    batch: int = 1,
    sharing: bool = False,
) -> tuple[Graph, FileEntry]:
    """Compare a converted graph with the network and write it into the staged bundle.

    The graph is run without engine optimizations, so that later differences can be attributed to an engine.

    Args:
        folder: Staged bundle.
        converted: Graph returned by `convert`.
        precision: Precision of the graph.
        gate: Windows and results.
        reference: Logits to compare with.
        weights_dtype: Storage type of the weights; None uses that of the precision.
        batch: Batch size of the graph.
        sharing: Refer to `model.onnx` for tensors that it contains.

    Raises:
        ParityError: The graph differs from the reference by more than the limits of the precision.
    """
    plain = emulated(converted) if precision in ("fp16", "bf16") else converted
    run, count = _runner(plain), len(gate.windows)
    starts = range(0, count, batch)  # runs every window, and compares every sample of the batch
    answers = [row[None] for start in starts for row in run(_filled(gate.windows, start, batch))]
    gate.check(
        STAGES[precision] + (f", batch {batch}" if batch > 1 else ""),
        answers,
        Reference(
            name=reference.name,
            answers=[reference.answers[(start + k) % count] for start in starts for k in range(batch)],
        ),
        precision=precision,
        graph=graph_file(precision, batch),
    )
    stored = weights_dtype or _WEIGHTS[precision]
    written = shared_weights(converted, folder) if sharing else converted
    return write_graph(folder, written, weights_dtype=stored, precision=precision, batch=batch)


def _filled(windows: Sequence[Window], start: int, batch: int) -> Window:
    """Return `batch` windows from index `start`, cyclically: (batch, 1, X, Y, Z)."""
    return np.concatenate([windows[(start + k) % len(windows)] for k in range(batch)])


def _runner(model: onnx.ModelProto) -> Callable[[Window], Logits]:
    """Return a function that runs a graph without optimizations, which could remove roundings."""
    import onnxruntime as ort  # noqa: PLC0415 (needed for additional graphs only)

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(images: Window) -> Logits:
        out: Logits = session.run([OUTPUT], {INPUT: images})[0]
        return out

    return run
