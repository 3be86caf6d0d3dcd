"""The bundle's other graphs: the precision and the batches that were asked for, beside `model.onnx`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from gcis_export.bundle_writer import write_graph
from gcis_export.check_windows import Window
from gcis_export.compare import Logits
from gcis_export.graph.write import INPUT, OUTPUT
from gcis_export.parity import Gate
from gcis_export.precision.emulate import emulated
from gcis_export.precision.int8 import int8_graph
from gcis_export.precision.typed import typed_graph
from gcis_runtime.bundles.manifest import FileEntry, Graph, Precision, WeightsDtype, graph_file

STAGES: dict[Precision, str] = {
    "fp32": "fp32 graph, operator by operator",
    "fp16": "fp16 graph, its roundings emulated",
    "bf16": "bf16 graph, its roundings emulated",
    "int8": "int8 graph, operator by operator",
}
"""What the parity report calls the graphs themselves, before any engine."""

_WEIGHTS: dict[Precision, WeightsDtype] = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "int8",
}


def convert(
    model: onnx.ModelProto, precision: Precision, *, calibration: Sequence[Window]
) -> onnx.ModelProto:
    """Return a float32 graph in another precision.

    Args:
        model: What `to_onnx` gave, with weights stored as float32.
        precision: The precision.
        calibration: Windows that give INT8 its ranges; the others need none.

    Raises:
        ParityError: A weight that the precision cannot hold.
        ImageError: Calibration windows that show nothing.
    """
    if precision == "fp32":
        return model
    if precision == "int8":
        batch = int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)
        return int8_graph(model, [_filled(calibration, k, batch) for k in range(0, len(calibration), batch)])
    return typed_graph(model, precision)


def add_graph(
    folder: Path,
    converted: onnx.ModelProto,
    precision: Precision,
    *,
    gate: Gate,
    reference: str,
    expected: Sequence[Logits],
    weights_dtype: WeightsDtype | None = None,
    batch: int = 1,
) -> tuple[Graph, FileEntry]:
    """Write a converted graph into the staged bundle and compare what it says with the network.

    No engine takes part: the graph's own arithmetic is run, so that a later difference is an engine's.

    Args:
        folder: The staged bundle.
        converted: What `convert` gave.
        precision: Its precision.
        gate: Windows and report.
        reference: Name of the network's stage.
        expected: The network's logits.
        weights_dtype: How weights are stored where the precision does not say it.
        batch: Windows at once.

    Raises:
        ParityError: The precision changes more than its limits allow.
    """
    plain = emulated(converted) if precision in ("fp16", "bf16") else converted
    run, count = _runner(plain), len(gate.windows)
    starts = range(0, count, batch)  # every window is run, and every place of the batch is compared
    answers = [row[None] for start in starts for row in run(_filled(gate.windows, start, batch))]
    gate.check(
        STAGES[precision] + (f", batch {batch}" if batch > 1 else ""),
        answers,
        reference=reference,
        expected=[expected[(start + k) % count] for start in starts for k in range(batch)],
        precision=precision,
        graph=graph_file(precision, batch),
    )
    stored = weights_dtype or _WEIGHTS[precision]
    return write_graph(folder, converted, weights_dtype=stored, precision=precision, batch=batch)


def _filled(windows: Sequence[Window], start: int, batch: int) -> Window:
    """Return `batch` windows from `start` on, going round: (batch, 1, X, Y, Z)."""
    return np.concatenate([windows[(start + k) % len(windows)] for k in range(batch)])


def _runner(model: onnx.ModelProto) -> Callable[[Window], Logits]:
    """Run a graph as it stands: an optimiser may drop a rounding, or compute with the integers themselves."""
    import onnxruntime as ort  # noqa: PLC0415 (only where another graph is asked for)

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(images: Window) -> Logits:
        out: Logits = session.run([OUTPUT], {INPUT: images})[0]
        return out

    return run
