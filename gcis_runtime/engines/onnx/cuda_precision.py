"""Choose the precision of ONNX Runtime on CUDA from results of the parity gate."""

from __future__ import annotations

from dataclasses import dataclass

import onnxruntime as ort

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import Graph
from gcis_runtime.choices import Precision
from gcis_runtime.engines.graph_choice import passed
from gcis_runtime.engines.machine_rows import find_row
from gcis_runtime.engines.parity import describe, describe_limits

FAST: Precision = "fp16"
"""The precision that `"auto"` prefers where its parity is proven; otherwise it is fp32."""


@dataclass(frozen=True, kw_only=True)
class PrecisionReason:
    """The precision that `"auto"` selects, and the reason in one sentence.

    `note` is whether the user should see it: a faster precision is there and is not used.
    """

    precision: Precision
    text: str
    note: bool = False


def engine_text() -> str:
    """Return name and version of the engine, as in the keys of stored rows."""
    return f"onnx {ort.__version__}"


def automatic_precision(bundle: Bundle, device: str) -> PrecisionReason:
    """Return fp16 if a row of the bundle or of this machine shows that it passed, otherwise fp32.

    Args:
        bundle: The verified bundle.
        device: `"cuda"` or `"cuda:1"`.

    Raises:
        EngineError: There is no such GPU.
    """
    graph = _fast_graph(bundle)
    if graph is None:
        return PrecisionReason(precision="fp32", text=f"fp32: the bundle has no {FAST} graph")
    if passed(bundle.manifest, backend="onnx", precision=FAST):
        return PrecisionReason(precision=FAST, text=f"{FAST}: it passed the parity gate of the export")
    row = find_row(bundle, graph, engine=engine_text(), device=device)
    if row is None:
        return PrecisionReason(
            precision="fp32", text=f"fp32: {FAST} was not checked on this machine", note=True
        )
    if row.passed:
        text = f"{FAST}: it passed the parity gate on this machine ({describe(row)})"
        return PrecisionReason(precision=FAST, text=text)
    text = f"fp32: {FAST} exceeds its limits on this machine ({describe(row)}; {describe_limits(row)})"
    return PrecisionReason(precision="fp32", text=text, note=True)


def unchecked_graph(bundle: Bundle, device: str) -> Graph | None:
    """Return the fp16 graph if neither the bundle nor this machine has a row for it, else None.

    Raises:
        EngineError: There is no such GPU.
    """
    graph = _fast_graph(bundle)
    if graph is None or passed(bundle.manifest, backend="onnx", precision=FAST):
        return None
    known = find_row(bundle, graph, engine=engine_text(), device=device)
    return graph if known is None else None


def _fast_graph(bundle: Bundle) -> Graph | None:
    """Return the fp16 graph of one window per run, on which all batch sizes are judged."""
    found = (g for g in bundle.manifest.graphs if (g.precision, g.batch) == (FAST, 1))
    return next(found, None)
