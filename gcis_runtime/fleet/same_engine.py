"""Check that all nodes of a run compute the same."""

from __future__ import annotations

from gcis_runtime.errors import ClusterError
from gcis_runtime.fleet.pool import Ready
from gcis_runtime.pipeline.identity import Identity


def check_version(ready: Ready, version: str, *, place: str) -> None:
    """Raise an error if a worker runs another version of gCIS than this process.

    Args:
        ready: The worker.
        version: Version of this process; empty for any.
        place: Node of the worker.

    Raises:
        ClusterError: The versions differ.
    """
    if version and ready.version != version:
        raise ClusterError(
            f"{place} has another version of gCIS",
            received=ready.version,
            expected=version,
            fix="Install the same version on all nodes.",
        )


def check_same(first: Identity, other: Identity, *, place: str) -> None:
    """Raise an error if a worker computes differently from the first one.

    The engine, its precision and the bundles must be equal. Versions of the engine and threads may differ.

    Args:
        first: What the first worker computes with.
        other: What this worker computes with.
        place: Its node.

    Raises:
        ClusterError: They differ.
    """
    ours, theirs = _computes(first), _computes(other)
    if ours != theirs:
        raise ClusterError(
            "two nodes compute with different engines or bundles",
            received=f"{theirs} on {place}",
            expected=ours,
            fix="Pass an --engine and a --precision that all nodes have, such as onnx and fp32.",
        )


def _computes(identity: Identity) -> str:
    engine = identity.engine
    parts = [f"{engine.name} {engine.precision}{' tf32' if identity.tf32 else ''}"]
    parts += [f"bundle {b.sha256[:12]}" for b in (identity.bundle, identity.coarse) if b is not None]
    return ", ".join([*parts, f"structures {[label.value for label in identity.labels]}"])
