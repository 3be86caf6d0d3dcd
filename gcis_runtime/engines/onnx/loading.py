"""Load a graph into ONNX Runtime and translate its errors; shared by the CPU and GPU sessions."""

from __future__ import annotations

import collections
import logging
from collections.abc import Sequence

import onnxruntime as ort

from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.engines.session import check_graph
from gcis_runtime.errors import DeviceMemoryError, EngineError

CPU_PROVIDER = "CPUExecutionProvider"
_WARNING, _FATAL = 2, 4
"""Severities of ONNX Runtime's logger."""
ort.disable_telemetry_events()  # in case the host process imported ONNX Runtime before gCIS
_OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "bad_alloc", "available memory of")


def load(
    graph: str | bytes,
    manifest: Manifest,
    providers: Sequence[object],
    *,
    threads: int,
    batch: int,
    record_placement: bool = False,
) -> ort.InferenceSession:
    """Load an ONNX graph and compare it with the manifest.

    Args:
        graph: The graph with all its weights, from `Bundle.graph_source`.
        manifest: The bundle's manifest, with the expected tensors.
        providers: ONNX Runtime's execution providers, with their options.
        threads: CPU threads; 0 keeps ONNX Runtime's default.
        batch: Windows per run.
        record_placement: Record the provider of each operator for `operators_on_cpu`.

    Raises:
        EngineError: The graph cannot be loaded.
        BundleError: The graph is not the one that the manifest describes.
    """
    options = ort.SessionOptions()
    options.log_severity_level = set_log_severity()
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    if record_placement:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = ort.InferenceSession(graph, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's errors derive from Exception alone
        raise as_engine_error(
            error, "ONNX Runtime cannot load the graph", fix="Run `gcis-bundle verify`."
        ) from error
    check_graph(
        manifest,
        inputs={i.name: i.shape for i in session.get_inputs()},
        outputs={o.name: o.shape for o in session.get_outputs()},
        batch=batch,
    )
    return session


def set_log_severity() -> int:
    """Set and return the severity from which ONNX Runtime prints messages on standard error.

    By default only fatal errors are printed. ONNX Runtime raises the errors that stop it, and logs others
    that need no action: convolutions for which cuDNN has no plan and that another kernel computes, or plugins
    that are not installed. With the logger `gcis_runtime` at level DEBUG (`-v`), warnings are printed too.
    """
    verbose = logging.getLogger("gcis_runtime").isEnabledFor(logging.DEBUG)
    severity = _WARNING if verbose else _FATAL
    ort.set_default_logger_severity(severity)
    return severity


def operators_on_cpu(session: ort.InferenceSession) -> collections.Counter[str] | None:
    """Count the operators per type that run on the CPU; None if this ONNX Runtime does not report it.

    Args:
        session: A session that was loaded with `record_placement`.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    parts = session.get_provider_graph_assignment_info()
    return collections.Counter(
        node.op_type for part in parts if part.ep_name == CPU_PROVIDER for node in part.get_nodes()
    )


def as_engine_error(error: Exception, message: str, *, fix: str | None = None) -> EngineError:
    """Return an error of ONNX Runtime as an `EngineError`, or as a `DeviceMemoryError` if memory ran out."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    if any(part in str(error).lower() for part in _OUT_OF_MEMORY):
        return DeviceMemoryError(
            f"{message}: out of memory",
            received=line,
            fix="Use a smaller window batch, or another --device.",
        )
    return EngineError(message, received=line, fix=fix)
