"""Select the graph of a bundle that a session loads."""

from __future__ import annotations

from collections.abc import Sequence

from gcis_runtime.bundles.manifest import Graph, Manifest, ParityRow
from gcis_runtime.errors import EngineError


def rows_of(manifest: Manifest, *, backend: str, precision: str) -> list[ParityRow]:
    """Return the rows of the parity report for an engine and a precision."""
    product = {"onnx": "onnx runtime", "openvino": "openvino"}.get(backend, backend)
    return [r for r in manifest.parity if product in r.stage.lower() and r.precision == precision]


def passed(manifest: Manifest, *, backend: str, precision: str) -> bool:
    """Return whether the bundle lists an engine with this precision and its parity rows passed."""
    listed = any(e.backend == backend and e.precision == precision for e in manifest.engines)
    rows = rows_of(manifest, backend=backend, precision=precision)
    return listed and bool(rows) and all(row.passed for row in rows)


def has_graph(manifest: Manifest, precision: str) -> bool:
    """Return whether the bundle has a graph of a precision with one window per run."""
    return any((graph.precision, graph.batch) == (precision, 1) for graph in manifest.graphs)


def choose_graph(
    manifest: Manifest, *, precision: str, batch: int | None, preferred: Sequence[str] = ("fp32",)
) -> Graph:
    """Return the graph for an engine that computes in the graph's own precision.

    Args:
        manifest: The bundle's manifest.
        precision: A precision, or `"auto"` for the first of `preferred` that the bundle has.
        batch: Largest number of windows per run; None for the largest that the bundle has. Every bundle has a
            graph with one window per run.
        preferred: Precisions that `"auto"` may select, best first.

    Raises:
        EngineError: The bundle has no graph of that precision.
    """
    wanted = list(preferred) if precision == "auto" else [precision]
    for name in wanted:
        fitting = [g for g in manifest.graphs if g.precision == name and (batch is None or g.batch <= batch)]
        if fitting:
            return max(fitting, key=lambda graph: graph.batch)
    there = sorted({graph.precision for graph in manifest.graphs})
    raise EngineError(
        f"the bundle has no {' or '.join(wanted)} graph",
        received=f"bundle {manifest.name!r} with {', '.join(there)}",
        expected=f"--precision auto or {' or '.join(there)}",
        fix="Export it with that --precision.",
    )
