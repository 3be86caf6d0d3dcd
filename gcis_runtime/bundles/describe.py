"""Format the contents of a bundle as text."""

from __future__ import annotations

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import POSITIONS, Manifest
from gcis_runtime.text import table


def describe(bundle: Bundle) -> str:
    """Return a description of a bundle: structures, pathways, grid, engines, parity, provenance and sizes."""
    m = bundle.manifest
    p = m.preprocess
    spacing = "spacing of the file" if p.spacing is None else " x ".join(f"{s:g}" for s in p.spacing) + " mm"
    roi = " x ".join(map(str, m.window.patch_size))
    low, high = p.intensity_window
    grid = f"{p.orientation or 'orientation of the file'}, {spacing}, HU {low:g} to {high:g}"
    if p.crop is not None:
        grid += f", cropped to voxels above {low:g} HU with a margin of {p.crop.margin} voxels"
    parts = [
        f"{m.name}   {bundle.folder}   {bundle.size / 2**20:.1f} MiB   sha256 {bundle.sha256[:12]}",
        f"{m.notice}\ncreated {m.created}",
        *text_weights_warning(m),
        _pathways(m),
        "\n".join(f"note: {note}" for note in m.notes or ()),
        "\n".join(f"post     {label.name}: {label.post.text}" for label in m.labels if label.post),
        f"input    {grid}\nwindow   {roi} voxels, overlap {m.window.overlap:g}, {m.window.blend} weights",
        _graphs(m),
        _engines(m),
        parity_table(m) if m.parity else "",
        _provenance(m),
        table(
            [["file", "bytes", "sha256"], *([f.path, str(f.bytes), f.sha256[:12]] for f in m.files)],
            right=(1,),
        ),
    ]
    return "\n\n".join(part for part in parts if part)


def text_weights_warning(m: Manifest) -> list[str]:
    """Return a warning if the text weights are random, else an empty list."""
    if not m.provenance.text_weights.startswith("random"):
        return []
    return [
        f"!!! TEXT WEIGHTS ARE {m.provenance.text_weights.upper()}: "
        "results for prompts outside the training are meaningless !!!"
    ]


def _pathways(m: Manifest) -> str:
    """Return a table of the blocks at the seven positions, counted from 1, with the router gaps below."""
    rows = [["value", "structure", "prompt", *POSITIONS]]
    for label, pathway in zip(m.labels, m.pathways, strict=True):
        mark = " (not trained)" if pathway.untrained is True else ""
        rows.append([str(label.value), label.name, label.prompt + mark, *map(str, pathway.path_selection)])
        if pathway.router_gaps is None:
            rows.append(["", "", "  selected by hand", *[""] * len(POSITIONS)])
        else:
            rows.append(["", "", "  router gap", *(f"{x:.2f}" for x in pathway.router_gaps)])
    return table(rows, right=(0, *range(3, 10)))


def _engines(m: Manifest) -> str:
    """Return a table of the engines."""
    rows = [["engine", "precision", "batch", "version", "device", "file", "settings"]]
    rows += [
        [
            e.backend, e.precision, str(e.batch), e.backend_version, e.device, e.file,
            ", ".join(f"{name} {value}" for name, value in e.settings.items()),
        ]
        for e in m.engines
    ]  # fmt: skip
    return table(rows, right=(2,))


def _graphs(m: Manifest) -> str:
    """Return a table of the ONNX files."""
    rows = [["graph", "precision", "batch", "operators", "opset", "weights stored as"]]
    rows += [
        [g.file, g.precision, str(g.batch), str(g.nodes or "-"), str(g.opset or "-"), g.weights_dtype]
        for g in m.graphs
    ]
    return table(rows, right=(2, 3, 4))


def parity_table(m: Manifest) -> str:
    """Return the parity report as a table: measured values, limits and outcome per comparison."""
    rows = [
        [
            "stage", "against", "precision", "graph", "windows", "max difference", "relative", "limit",
            "labels changed", "decided", "limit", "Dice", "limit", "",
        ]
    ]  # fmt: skip
    rows += [
        [
            r.stage, r.reference, r.precision, r.graph or "-", str(r.windows),
            f"{r.max_abs:.3g}", f"{r.relative:.2g}", f"{r.limit_relative:.2g}",
            f"{100 * r.labels_changed:.4f} %", f"{100 * r.decided:.4f} %", f"{100 * r.tolerance_labels:g} %",
            "-" if r.dice is None else f"{r.dice:.4f}",
            "-" if r.tolerance_dice is None else f"{r.tolerance_dice:g}",
            "ok" if r.passed else "FAILED",
        ]
        for r in m.parity
    ]  # fmt: skip
    return table(rows, right=range(4, 13))


def _provenance(m: Manifest) -> str:
    """Return a table of the origin of the weights and of the software versions."""
    rows = [
        ["checkpoint", f"sha256 {m.provenance.checkpoint_sha256[:12]}"],
        ["text model", f"{m.provenance.text_model}, weights {m.provenance.text_weights}"],
    ]
    rows += [[f"training {key}", str(value)] for key, value in m.provenance.training.items()]
    rows += [[f"made with {name}", version] for name, version in m.versions.items()]
    return table(rows)
