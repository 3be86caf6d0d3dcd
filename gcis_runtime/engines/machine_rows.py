"""Store what was measured with a bundle on this machine, such as results of the parity gate.

The records are in the private cache of the bundle, which is not changed. Their key contains the hashes of
bundle and graph and the versions of engine, driver and gCIS, so that a record is found only where it holds.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import Graph, ParityRow
from gcis_runtime.engines.gpu.probe import probe_driver, require_gpu
from gcis_runtime.system.json_files import decode_json
from gcis_runtime.system.private_cache import open_cache_beside

_KIND = "parity"
_T = TypeVar("_T", bound=msgspec.Struct)


def find_row(bundle: Bundle, graph: Graph, *, engine: str, device: str) -> ParityRow | None:
    """Return the row of a graph on a GPU of this machine; None if it was not measured.

    Args:
        bundle: The verified bundle.
        graph: Graph of the bundle.
        engine: Name and version of the engine.
        device: `"cuda"` or `"cuda:1"`.

    Raises:
        EngineError: There is no such GPU.
    """
    return find_record(bundle, _KIND, machine_key(bundle, graph, engine=engine, device=device), ParityRow)


def store_row(bundle: Bundle, graph: Graph, row: ParityRow, *, engine: str, device: str) -> bool:
    """Store a row, which replaces an earlier one; see `find_row`. Return whether it could be stored."""
    return store_record(bundle, _KIND, machine_key(bundle, graph, engine=engine, device=device), row)


def find_record(bundle: Bundle, kind: str, key: Mapping[str, str], type_: type[_T]) -> _T | None:
    """Return a record about a bundle on this machine; None if there is none, or it is damaged."""
    cache = open_cache_beside(bundle.folder)
    found = None if cache is None else cache.find(kind, key)
    if found is None:
        return None
    try:
        return decode_json(found.read_bytes(), type_)
    except (OSError, msgspec.DecodeError):
        return None


def store_record(bundle: Bundle, kind: str, key: Mapping[str, str], record: msgspec.Struct) -> bool:
    """Store a record, which replaces an earlier one; see `find_record`. Return whether it could be stored."""
    cache = open_cache_beside(bundle.folder)
    if cache is None:
        return False
    data = msgspec.json.encode(record)
    return cache.store(kind, key, lambda path: path.write_bytes(data)) is not None


def machine_key(bundle: Bundle, graph: Graph, *, engine: str, device: str) -> dict[str, str]:
    """Return everything that a measurement of a graph on a GPU depends on; see `find_row`."""
    gpu: Any = require_gpu(device)
    return {
        "bundle": bundle.sha256,
        "graph": bundle.manifest.entry(graph.file).sha256,
        "engine": engine,
        "gpu": f"{gpu.name} {gpu.sm}",
        "driver": str(probe_driver().version),
        "gcis": importlib.metadata.version("gcis"),
    }
