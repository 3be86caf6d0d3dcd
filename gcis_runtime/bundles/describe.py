"""A bundle described for people."""

from __future__ import annotations

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import POSITIONS, Manifest
from gcis_runtime.text import table


def describe(bundle: Bundle) -> str:
    """Describe a bundle: structures, pathways counted from 1, grid, engines, parity, provenance, sizes."""
    m = bundle.manifest
    p = m.preprocess
    spacing = "the file's spacing" if p.spacing is None else " x ".join(f"{s:g}" for s in p.spacing) + " mm"
    roi = " x ".join(map(str, m.window.patch_size))
    low, high = p.intensity_window
    grid = f"{p.orientation or 'the file order'}, {spacing}, HU {low:g} to {high:g}"
    if p.crop is not None:
        grid += f", cropped to what lies above {low:g} HU and {p.crop.margin} voxels around"
    parts = [
        f"{m.name}   {bundle.folder}   {bundle.size / 2**20:.1f} MiB   sha256 {bundle.sha256[:12]}",
        f"{m.notice}\ncreated {m.created}",
        *text_weights_warning(m),
        _pathways(m),
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
    """Return a line that stands out when the prompts' text weights are random."""
    if not m.provenance.text_weights.startswith("random"):
        return []
    return [
        f"!!! TEXT WEIGHTS ARE {m.provenance.text_weights.upper()}: "
        "prompts other than those trained mean nothing to this network !!!"
    ]


def _pathways(m: Manifest) -> str:
    """Return prompts with label values and blocks at the seven positions; router margins below each."""
    rows = [["value", "structure", "prompt", *POSITIONS]]
    for label, pathway in zip(m.labels, m.pathways, strict=True):
        rows.append([str(label.value), label.name, label.prompt, *map(str, pathway.path_selection)])
        if pathway.margins is None:
            rows.append(["", "", "  given by hand", *[""] * len(POSITIONS)])
        else:
            rows.append(["", "", "  margin", *(f"{x:.2f}" for x in pathway.margins)])
    return table(rows, right=(0, *range(3, 10)))


def _engines(m: Manifest) -> str:
    """Return the engines that the export checked."""
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
    """Return the ONNX files."""
    rows = [["graph", "precision", "batch", "operators", "opset", "weights stored as"]]
    rows += [
        [g.file, g.precision, str(g.batch), str(g.nodes or "-"), str(g.opset or "-"), g.weights_dtype]
        for g in m.graphs
    ]
    return table(rows, right=(2, 3, 4))


def parity_table(m: Manifest) -> str:
    """Return the parity report: what was measured, each limit beside it, and the outcome."""
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
    """Return where the weights come from."""
    rows = [
        ["checkpoint", f"sha256 {m.provenance.checkpoint_sha256[:12]}"],
        ["text model", f"{m.provenance.text_model}, weights {m.provenance.text_weights}"],
    ]
    rows += [[f"training {key}", str(value)] for key, value in m.provenance.training.items()]
    rows += [[f"made with {name}", version] for name, version in m.versions.items()]
    return table(rows)
