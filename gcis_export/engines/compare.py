"""The bundle's graph in the engines that read it as it is: opened as the runtime does, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gcis_export.compare import Margins, describe, describe_limits
from gcis_export.engines import onnx, openvino
from gcis_export.parity import Gate
from gcis_runtime.bundle import open_bundle
from gcis_runtime.errors import BundleError, EngineError, ParityError
from gcis_runtime.manifest import GRAPH_BACKENDS, MODEL_FILE, Backend, Engine, Precision, graph_file
from gcis_runtime.sessions import open_session
from gcis_runtime.sessions.base import Session

_PRODUCTS = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
_OFFERS = {"onnx": onnx.PRECISIONS, "openvino": openvino.PRECISIONS}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What an engine is compared with.

    Attributes:
        name: The stage's name.
        answers: Its margins on each window.
    """

    name: str
    answers: Sequence[Margins]


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
    readers = [name for name in names if name in GRAPH_BACKENDS]
    for name in readers:
        engine, answers = _run(folder, gate, name, "fp32")
        gate.check(_title(engine), answers, reference=exact.name, expected=exact.answers, graph=engine.graph)
        engines.append(engine)
    for name in [n for n in readers if precision == "int8" and "int8" in _OFFERS[n]]:
        engine, answers = _run(folder, gate, name, "int8")
        gate.check(
            _title(engine),
            answers,
            reference=network.name,
            expected=network.answers,
            precision="int8",
            graph=engine.graph,
        )
        engines.append(engine)
    if precision == "fp16":
        notes.append("ONNX Runtime computes the fp16 graph on CUDA alone: it was compared, but not run there")
    if "openvino" in names:
        bf16, remarks = _try_bf16(folder, gate, network, required=precision == "bf16")
        engines += bf16
        notes += remarks
    return tuple(engines), tuple(notes)


def _try_bf16(
    folder: Path, gate: Gate, network: Reference, *, required: bool
) -> tuple[tuple[Engine, ...], tuple[str, ...]]:
    """Run OpenVINO in bf16; return it where it holds its limits, else a remark."""
    try:
        engine, answers = _run(folder, gate, "openvino", "bf16")
    except EngineError as error:
        if required:
            raise
        return (), (f"bf16 was not checked: {error.message}",)
    row = gate.check(
        _title(engine),
        answers,
        reference=network.name,
        expected=network.answers,
        precision="bf16",
        graph=engine.graph,
        required=required,
    )
    if row.passed:
        return (engine,), ()
    gap = f"{describe(row)}; {describe_limits(row)}"
    return (), (f"bf16 does not hold ({gap}): the bundle does not offer it",)


def _run(folder: Path, gate: Gate, name: str, precision: Precision) -> tuple[Engine, list[Margins]]:
    """Open an engine as the runtime does and run every window."""
    try:
        session = open_session(open_bundle(folder), engine=name, device="cpu", precision=precision)
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


def _title(engine: Engine) -> str:
    return f"{_PRODUCTS[engine.backend]} {engine.backend_version}"
