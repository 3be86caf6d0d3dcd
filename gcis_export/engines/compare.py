"""The bundle's graph in the engines that read it as it is: opened as the runtime does, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gcis_export.compare import Logits, describe, describe_limits
from gcis_export.engines import onnx, openvino
from gcis_export.parity import Gate
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import (
    GRAPH_BACKENDS,
    MODEL_FILE,
    Backend,
    Engine,
    ParityRow,
    Precision,
    graph_file,
)
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.engines.session import Session
from gcis_runtime.errors import BundleError, EngineError, ParityError

_PRODUCTS = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
_OFFERS = {"onnx": onnx.PRECISIONS, "openvino": openvino.PRECISIONS}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What an engine is compared with.

    Attributes:
        name: The stage's name.
        answers: Its logits on each window.
    """

    name: str
    answers: Sequence[Logits]


def compare_engines(
    folder: Path, gate: Gate, names: Sequence[str], *, exact: Reference, network: Reference, precision: str
) -> tuple[tuple[Engine, ...], tuple[str, ...]]:
    """Run the staged bundle in each engine.

    Args:
        folder: The staged bundle, with a manifest that lists the graph.
        gate: Windows and report.
        names: Engines that were asked for; compiled ones are passed over.
        exact: The network with the weights of the file: float32 engines must equal it.
        network: The checkpoint's network: bf16 is measured against it.
        precision: `"int8"` runs the 8-bit graph too; `"bf16"` makes bf16 a must, else it is tried where the
            CPU has it.

    Returns:
        The engines that hold their limits, and remarks on those that do not.

    Raises:
        ParityError: A float32 engine, or bf16 that was asked for, differs.
        EngineError: An engine cannot be opened, or computes in another precision.
    """
    engines: list[Engine] = []
    notes: list[str] = []
    for name in [name for name in GRAPH_BACKENDS if name in names]:
        engines.append(_check(folder, gate, name, "fp32", exact)[0])
        if precision == "int8" and "int8" in _OFFERS[name]:
            engines.append(_check(folder, gate, name, "int8", network)[0])
    if precision == "fp16":
        notes.append("ONNX Runtime computes the fp16 graph on CUDA alone: it was compared, but not run there")
    if "openvino" in names:
        required = precision == "bf16"
        try:
            engine, row = _check(folder, gate, "openvino", "bf16", network, required=required)
        except EngineError as error:
            if required:
                raise
            return tuple(engines), (*notes, f"bf16 was not checked: {error.message}")
        if row.passed:
            engines.append(engine)
        else:
            notes.append(
                f"bf16 does not hold ({describe(row)}; {describe_limits(row)}): the bundle does not offer it"
            )
    return tuple(engines), tuple(notes)


def _check(
    folder: Path,
    gate: Gate,
    name: Backend,
    precision: Precision,
    reference: Reference,
    *,
    required: bool = True,
) -> tuple[Engine, ParityRow]:
    """Run an engine in a precision and compare it."""
    engine, answers = _run(folder, gate, name, precision)
    row = gate.check(
        f"{_PRODUCTS[name]} {engine.backend_version}",
        answers,
        reference=reference.name,
        expected=reference.answers,
        precision=precision,
        graph=engine.graph,
        required=required,
    )
    return engine, row


def _run(folder: Path, gate: Gate, name: Backend, precision: Precision) -> tuple[Engine, list[Logits]]:
    """Open an engine as the runtime does and run every window."""
    try:
        session = open_session(open_bundle(folder), EngineOptions(engine=name, precision=precision))
    except BundleError as error:  # another name or shape than the manifest's
        raise ParityError(
            f"{_PRODUCTS[name]} does not hold the graph that was exported",
            received=f"{error.message}: {error.received}",
            expected=error.expected,
            fix="No bundle was written.",
        ) from error
    file = graph_file("int8") if precision == "int8" else MODEL_FILE  # bf16 is made of the float32 graph
    try:
        _check_precision(name, session, folder / file, precision)
        answers = gate.answers(session.run)
    finally:
        session.close()
    backend: Backend = "openvino" if name == "openvino" else "onnx"
    engine = Engine(
        backend=backend,
        precision=precision,
        file=file,
        graph=file,
        backend_version=session.version,
        device="cpu",
    )
    return engine, answers


def _check_precision(name: str, session: Session, graph: Path, precision: Precision) -> None:
    """Refuse an engine that computes in another precision than was asked for."""
    # An OpenVINO session has read it from its compiled model; ONNX Runtime has to be asked apart.
    really = onnx.read_precision(graph) if name == "onnx" else session.precision
    if really != precision:
        raise EngineError(
            f"{_PRODUCTS[name]} computes in another precision than was asked for",
            received=really,
            expected=precision,
            fix="Export with another --precision, or another --engine.",
        )
