"""Which of a bundle's graphs and precisions a session takes."""

from __future__ import annotations

from collections.abc import Sequence

from gcis_runtime.bundles.manifest import Graph, Manifest, ParityRow
from gcis_runtime.errors import EngineError


def rows_of(manifest: Manifest, *, backend: str, precision: str) -> list[ParityRow]:
    """Return the parity report's rows on an engine in a precision."""
    product = {"onnx": "onnx runtime", "openvino": "openvino"}.get(backend, backend)
    return [r for r in manifest.parity if product in r.stage.lower() and r.precision == precision]


def passed(manifest: Manifest, *, backend: str, precision: str) -> bool:
    """Tell whether the export offers an engine in a precision, and its parity rows hold their limits."""
    listed = any(e.backend == backend and e.precision == precision for e in manifest.engines)
    rows = rows_of(manifest, backend=backend, precision=precision)
    return listed and bool(rows) and all(row.passed for row in rows)


def choose_graph(
    manifest: Manifest, *, precision: str, batch: int | None, preferred: Sequence[str] = ("fp32",)
) -> Graph:
    """Return the graph that an engine which computes in the graph's own precision should read.

    Args:
        manifest: The bundle's manifest.
        precision: A precision, or `"auto"` for the first of `preferred` that is there.
        batch: Most windows a run; None takes the largest there is. One window a run is always there.
        preferred: Precisions that `"auto"` may take, best first.

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
