"""Run the graphs of a staged bundle in the engines that load ONNX files, and compare their logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gcis_export.engines import onnx
from gcis_export.engines.on_gpu import compare_on_gpu, has_cuda
from gcis_export.engines.registry import ENGINES
from gcis_export.gate.parity import Gate, Reference, References
from gcis_export.options import EngineName, Precision
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import GRAPH_BACKENDS, MODEL_FILE, Engine, ParityRow, graph_file
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.engines.parity import Logits, describe, describe_limits
from gcis_runtime.engines.session import Session
from gcis_runtime.errors import BundleError, EngineError, ParityError


def compare_engines(
    folder: Path,
    gate: Gate,
    names: Sequence[EngineName],
    *,
    references: References,
    precision: Precision,
) -> tuple[tuple[Engine, ...], tuple[str, ...]]:
    """Run the staged bundle in each engine that loads ONNX files, on a GPU as well if the machine has one.

    Args:
        folder: Staged bundle with a manifest that lists the graphs.
        gate: Windows and results.
        names: Selected engines; compiled engines are skipped.
        references: Logits to compare with.
        precision: `"int8"` also runs the INT8 graph. `"bf16"` requires bf16 to pass; otherwise bf16 is tried
            where the CPU supports it.

    Returns:
        The engines that passed, and notes on those that did not.

    Raises:
        ParityError: A float32 engine, or a required bf16 engine, differs from its reference.
        EngineError: An engine cannot be opened, or computes in another precision.
    """
    engines: list[Engine] = []
    notes: list[str] = []
    for name in [name for name in names if name in GRAPH_BACKENDS]:
        engines.append(_check(folder, gate, name, "fp32", references.exact)[0])
        if precision == "int8" and "int8" in ENGINES[name].precisions:
            engines.append(_check(folder, gate, name, "int8", references.network)[0])
    on_gpu, gpu_notes = compare_on_gpu(folder, gate, references)
    engines += on_gpu
    notes += gpu_notes
    if precision == "fp16" and not has_cuda():
        notes.append("the fp16 graph was compared but not run in ONNX Runtime, which runs it on CUDA only")
    if "openvino" in names:
        required = precision == "bf16"
        try:
            engine, row = _check(folder, gate, "openvino", "bf16", references.network, required=required)
        except EngineError as error:
            if required:
                raise
            return tuple(engines), (*notes, f"bf16 was not checked: {error.message}")
        if row.passed:
            engines.append(engine)
        else:
            notes.append(
                f"bf16 exceeds its limits ({describe(row)}; {describe_limits(row)}): "
                "the bundle does not offer it"
            )
    return tuple(engines), tuple(notes)


def _check(
    folder: Path,
    gate: Gate,
    name: EngineName,
    precision: Precision,
    reference: Reference,
    *,
    required: bool = True,
) -> tuple[Engine, ParityRow]:
    """Run an engine in a precision and compare its logits."""
    engine, answers = _run(folder, gate, name, precision)
    row = gate.check(
        f"{ENGINES[name].product} {engine.backend_version}",
        answers,
        reference,
        precision=precision,
        graph=engine.graph,
        required=required,
    )
    return engine, row


def _run(folder: Path, gate: Gate, name: EngineName, precision: Precision) -> tuple[Engine, list[Logits]]:
    """Open an engine as the runtime does and run every window."""
    try:
        session = open_session(open_bundle(folder), EngineOptions(engine=name, precision=precision))
    except BundleError as error:  # the names or shapes of the graph differ from the manifest
        raise ParityError(
            f"{ENGINES[name].product} did not load the exported graph",
            received=f"{error.message}: {error.received}",
            expected=error.expected,
            fix="No bundle was written; export with another --engine.",
        ) from error
    file = graph_file("int8") if precision == "int8" else MODEL_FILE  # bf16 is computed from the fp32 graph
    try:
        _check_precision(name, session, folder / file, precision)
        answers = gate.answers(session.run)
    finally:
        session.close()
    engine = Engine(
        backend=name,
        precision=precision,
        file=file,
        graph=file,
        backend_version=session.version,
        device="cpu",
    )
    return engine, answers


def _check_precision(name: EngineName, session: Session, graph: Path, precision: Precision) -> None:
    """Raise if an engine computes in a precision other than the requested one."""
    # An OpenVINO session reads it from the compiled model; a session of ONNX Runtime does not.
    actual = onnx.read_precision(graph) if name == "onnx" else session.precision
    if actual != precision:
        raise EngineError(
            f"{ENGINES[name].product} computes in a precision other than the requested one",
            received=actual,
            expected=precision,
            fix="Export with another --precision or another --engine.",
        )
