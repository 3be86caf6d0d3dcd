"""What an export says when it is done."""

from __future__ import annotations

import msgspec

from gcis_export.export import Exported
from gcis_runtime.bundles.describe import parity_table, text_weights_warning
from gcis_runtime.bundles.manifest import POSITIONS, Manifest
from gcis_runtime.text import table


def as_text(result: Exported) -> str:
    """Describe an export for people: pathways, parity, size, place, and what to watch out for."""
    m = result.manifest
    parts = [
        *text_weights_warning(m),
        _pathways(m),
        *(
            f"WARNING: {' and '.join(map(repr, group))} have the same pathway: they give the same mask"
            for group in result.coinciding
        ),
        f"{parity_table(m)}\ncompared on {result.windows}",
        *(f"note: {note}" for note in result.notes),
        _size(result),
        m.notice,
        "\n".join(f"wrote {folder}" for folder in (*result.onward, result.folder)),
    ]
    return "\n\n".join(parts)


def as_json(result: Exported) -> str:
    """Return an export as indented JSON: folder, hashes, notes and the manifest."""
    content = {
        "folder": str(result.folder),
        "sha256": result.sha256,
        "nodes": result.nodes,
        "coinciding": result.coinciding,
        "windows": result.windows,
        "notes": result.notes,
        "onward": [str(folder) for folder in result.onward],
        "manifest": msgspec.to_builtins(result.manifest),
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()


def _pathways(m: Manifest) -> str:
    """Return prompts with their blocks, counted from 1, and the router's margins."""
    rows = [["value", "prompt", "pathway", f"margin: {POSITIONS[0]}", *POSITIONS[1:]]]
    for label, pathway in zip(m.labels, m.pathways, strict=True):
        margins = ["-"] + ["-"] * 6
        if pathway.margins is not None:
            margins = [f"{value:.2f}" for value in pathway.margins]
        selection = ",".join(map(str, pathway.path_selection))
        rows.append([str(label.value), label.prompt, selection, *margins])
    return table(rows, right=(0, *range(3, 10)))


def _size(result: Exported) -> str:
    """Return window, graph and file sizes."""
    m = result.manifest
    roi = " x ".join(map(str, m.window.patch_size))
    files = ", ".join(f"{f.path} {f.bytes / 1e6:.2f} MB" for f in m.files)
    engines = ", ".join(f"{e.backend} {e.precision}" for e in m.engines)
    return (
        f"window {roi}, {result.nodes} operators, weights {m.model.weights_dtype}; {files}; engines {engines}"
    )
