"""Run the graphs of a staged bundle in ONNX Runtime on the GPU of this machine, and compare their logits."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from gcis_export.gate.parity import Gate, References
from gcis_runtime.bundles.bundle import Bundle, open_bundle
from gcis_runtime.bundles.manifest import Engine, Graph
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.gpu.probe import probe_driver
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.engines.parity import Logits, describe, describe_limits
from gcis_runtime.errors import EngineError

_PROVIDER = "CUDAExecutionProvider"
_PRECISIONS = ("fp32", "fp16")
"""Precisions that the CUDA provider computes."""


def has_cuda() -> bool:
    """Return whether ONNX Runtime can run on a GPU of this machine."""
    return probe_driver().problem is None and _PROVIDER in ort.get_available_providers()


def compare_on_gpu(
    folder: Path, gate: Gate, references: References
) -> tuple[tuple[Engine, ...], tuple[str, ...]]:
    """Run every graph that the CUDA provider computes; nothing on a machine without a GPU.

    A graph that exceeds its limits does not stop the export, because the bundle also runs on the CPU.

    Args:
        folder: Staged bundle with a manifest that lists the graphs.
        gate: Windows and results.
        references: Logits to compare with.

    Returns:
        The engines that passed, and notes on those that did not.
    """
    if not has_cuda():
        return (), ()
    engines: list[Engine] = []
    notes: list[str] = []
    bundle = open_bundle(folder)
    for graph in bundle.manifest.graphs:
        if graph.precision not in _PRECISIONS:
            continue
        reference = references.exact if graph.precision == "fp32" else references.network
        try:
            version, answers = _run(bundle, graph, gate)
        except EngineError as error:
            notes.append(f"{graph.file} was not run on CUDA: {error.message}")
            continue
        stage = f"ONNX Runtime {version} on CUDA"
        row = gate.check(
            stage, answers, reference, precision=graph.precision, graph=graph.file, required=False
        )
        if row.passed:
            engines.append(_engine(graph, version))
        else:
            notes.append(f"{graph.file} on CUDA exceeds its limits ({describe(row)}; {describe_limits(row)})")
    return tuple(engines), tuple(notes)


def _run(bundle: Bundle, graph: Graph, gate: Gate) -> tuple[str, list[Logits]]:
    """Return the version of the engine and the logits of every window."""
    options = EngineOptions(engine="onnx", device="cuda", precision=graph.precision, batch=graph.batch)
    session = open_session(bundle, options)
    try:
        return session.version, gate.answers(session.run)
    finally:
        session.close()


def _engine(graph: Graph, version: str) -> Engine:
    return Engine(
        backend="onnx",
        precision=graph.precision,
        file=graph.file,
        graph=graph.file,
        backend_version=version,
        device="cuda",
        batch=graph.batch,
    )
