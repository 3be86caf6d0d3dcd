"""Manifests of older schema versions, brought to the current one; the only place that knows them.

Each step rewrites plain JSON values and leaves what it does not know where it is, so that the strict
reading that follows refuses it.
"""

from __future__ import annotations

from typing import Any

import msgspec

Document = dict[str, Any]
"""A manifest, or an object in it, as JSON values."""

_MODEL = "model.onnx"
_NEW_IN_2 = {
    "engines": ("graph", "batch", "settings"),
    "parity": (
        "graph",
        "max_rel",
        "labels_decided",
        "undecided",
        "dice",
        "tolerance_rel",
        "tolerance_dice",
        "band",
    ),
}


def upgrade(document: Document) -> Document:
    """Bring a manifest of an older schema version to the current one, step by step.

    Args:
        document: A manifest of a version that is known.

    Raises:
        msgspec.ValidationError: It does not follow its own schema.
    """
    while step := _STEPS.get(document["schema_version"]):
        document = step(document)
    return document


def _from_1(old: Document) -> Document:
    """Version 1 had one graph, whose weights' type stood at the top, and engines that all read it."""
    _refuse(old, ("graphs",), "$")
    if "weights_dtype" not in old:
        raise msgspec.ValidationError("Object missing required field `weights_dtype`")
    new = {name: value for name, value in old.items() if name != "weights_dtype"}
    graph = {"file": _MODEL, "precision": "fp32", "opset": 0, "nodes": 0}
    new["schema_version"] = 2
    new["graphs"] = [graph | {"weights_dtype": old["weights_dtype"]}]
    new["engines"] = [engine | {"graph": _MODEL} for engine in _objects(old, "engines")]
    new["parity"] = [row | {"graph": _graph_of(row)} for row in _objects(old, "parity")]
    return new


def _graph_of(row: Document) -> str:
    """Return the file that a stage ran: all but PyTorch ran the one there was."""
    return "" if "PyTorch" in str(row.get("stage")) else _MODEL


def _objects(document: Document, field: str) -> list[Document]:
    """Return a list of objects that have none of the fields of version 2."""
    found = document.get(field)
    if not isinstance(found, list) or not all(isinstance(part, dict) for part in found):
        raise msgspec.ValidationError(f"Expected `array` of `object` - at `$.{field}`")
    for part in found:
        _refuse(part, _NEW_IN_2[field], f"$.{field}[...]")
    return found


def _refuse(part: Document, fields: tuple[str, ...], where: str) -> None:
    for field in fields:
        if field in part:
            raise msgspec.ValidationError(f"Object contains unknown field `{field}` - at `{where}`")


_STEPS = {1: _from_1}
