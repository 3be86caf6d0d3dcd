"""The bundle's second graph: the precision that was asked for, in a file of its own beside `model.onnx`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import onnx

from gcis_export.bundle_writer import write_graph
from gcis_export.check_windows import Window
from gcis_export.compare import Margins
from gcis_export.graph.write import INPUT, OUTPUT
from gcis_export.parity import Gate
from gcis_export.precision.emulate import emulated
from gcis_export.precision.int8 import int8_graph
from gcis_export.precision.typed import typed_graph
from gcis_runtime.manifest import FileEntry, Graph, WeightsDtype, graph_file

ExtraPrecision = Literal["fp16", "bf16", "int8"]

STAGES: dict[ExtraPrecision, str] = {
    "fp16": "fp16 graph, its roundings emulated",
    "bf16": "bf16 graph, its roundings emulated",
    "int8": "int8 graph, operator by operator",
}
"""What the parity report calls the graphs themselves, before any engine."""

_WEIGHTS: dict[ExtraPrecision, WeightsDtype] = {"fp16": "float16", "bf16": "bfloat16", "int8": "int8"}


def convert(
    model: onnx.ModelProto, precision: ExtraPrecision, *, calibration: Sequence[Window]
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
    if precision == "int8":
        return int8_graph(model, calibration)
    return typed_graph(model, precision)


def add_graph(
    folder: Path,
    converted: onnx.ModelProto,
    precision: ExtraPrecision,
    *,
    gate: Gate,
    reference: str,
    expected: Sequence[Margins],
) -> tuple[Graph, FileEntry]:
    """Write a converted graph into the staged bundle and compare what it says with the network.

    No engine takes part: the graph's own arithmetic is run, so that a later difference is an engine's.

    Args:
        folder: The staged bundle.
        converted: What `convert` gave.
        precision: Its precision.
        gate: Windows and report.
        reference: Name of the network's stage.
        expected: The network's margins.

    Raises:
        ParityError: The precision changes more than its limits allow.
    """
    plain = converted if precision == "int8" else emulated(converted)
    gate.check(
        STAGES[precision],
        gate.answers(_runner(plain)),
        reference=reference,
        expected=expected,
        precision=precision,
        graph=graph_file(precision),
    )
    return write_graph(folder, converted, weights_dtype=_WEIGHTS[precision], precision=precision)


def _runner(model: onnx.ModelProto) -> Callable[[Window], Margins]:
    """Run a graph as it stands: an optimiser may drop a rounding, or compute with the integers themselves."""
    import onnxruntime as ort  # noqa: PLC0415 (only where a precision is asked for)

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(window: Window) -> Margins:
        out: Margins = session.run([OUTPUT], {INPUT: window})[0]
        return out

    return run
