"""Format the result of an export as text or JSON."""

from __future__ import annotations

import msgspec

from gcis_export.export import ExportResult
from gcis_runtime.bundles.describe import parity_table, text_weights_warning
from gcis_runtime.bundles.manifest import POSITIONS, Manifest
from gcis_runtime.system.json_files import json_text
from gcis_runtime.text import table


def as_text(result: ExportResult) -> str:
    """Return the report as text: pathways, parity, notes, sizes and written folders."""
    m = result.manifest
    parts = [
        *text_weights_warning(m),
        _pathways(m),
        *(
            f"WARNING: {' and '.join(map(repr, group))} have the same pathway and therefore the same mask"
            for group in result.coinciding
        ),
        *(f"post-processing of {label.name}: {label.post.text}" for label in m.labels if label.post),
        f"{parity_table(m)}\ncompared on {result.windows}",
        *(f"note: {note}" for note in result.notes),
        _sizes(result),
        m.notice,
        "\n".join(f"wrote {folder}" for folder in (*result.targets, result.folder)),
    ]
    return "\n\n".join(parts)


def as_json(result: ExportResult) -> str:
    """Return the report as indented JSON: folders, hash, notes and the manifest."""
    content = {
        "folder": str(result.folder),
        "sha256": result.sha256,
        "nodes": result.nodes,
        "coinciding": result.coinciding,
        "windows": result.windows,
        "notes": result.notes,
        "targets": [str(folder) for folder in result.targets],
        "manifest": msgspec.to_builtins(result.manifest),
    }
    return json_text(content)


def _pathways(m: Manifest) -> str:
    """Return a table of the pathways, counted from 1, and the router gaps at the seven positions."""
    rows = [["value", "prompt", "pathway", f"router gap: {POSITIONS[0]}", *POSITIONS[1:]]]
    for label, pathway in zip(m.labels, m.pathways, strict=True):
        gaps = ["-"] * len(POSITIONS)
        if pathway.router_gaps is not None:
            gaps = [f"{value:.2f}" for value in pathway.router_gaps]
        selection = ",".join(map(str, pathway.path_selection))
        mark = " (not trained)" if pathway.untrained is True else ""
        rows.append([str(label.value), label.prompt + mark, selection, *gaps])
    return table(rows, right=(0, *range(3, 10)))


def _sizes(result: ExportResult) -> str:
    """Return window size, number of operators, file sizes and engines."""
    m = result.manifest
    window = " x ".join(map(str, m.window.patch_size))
    files = ", ".join(f"{f.path} {f.bytes / 1e6:.2f} MB" for f in m.files)
    engines = ", ".join(f"{e.backend} {e.precision}" for e in m.engines)
    return (
        f"window {window}, {result.nodes} operators, weights {m.model.weights_dtype}; {files}; "
        f"engines {engines}"
    )
