"""A latency record as one page for whoever runs the workstation: what it means, and what to change."""

from __future__ import annotations

import html
from collections.abc import Sequence

import msgspec

from benchmarks.latency_advice import advice
from benchmarks.latency_record import LatencyRecord, Row
from benchmarks.latency_report import (
    ACCURACY_PNG,
    OVERVIEW_HEAD,
    STAGES_PNG,
    TABLES,
    WORK_HEAD,
    by,
    fastest,
    overview,
    stage_head,
    stage_rows,
    work,
)
from benchmarks.records import hardware_text

EXACT, CLOSE = (0.9999, 0.995), (0.995, 0.99)
"""Least share of equal labels and least Dice: rounding alone, and what arithmetic in fewer bits may cost."""
_STYLE = """
body{font:16px/1.55 system-ui,sans-serif;color:#1c2733;max-width:60rem;margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #d8dee4}
.notice{background:#fff4e0;border-left:4px solid #e69f00;padding:.5rem .9rem}
.big{display:flex;flex-wrap:wrap;gap:1rem;margin:1.2rem 0}.big div{flex:1 1 12rem;background:#eef4f9;
border-radius:.4rem;padding:.7rem 1rem}.big b{display:block;font-size:1.5rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;width:100%}th,td{padding:.3rem .55rem;
text-align:right;border-bottom:1px solid #e3e8ed}th{vertical-align:bottom;font-weight:600}
th:first-child,td:first-child{text-align:left;white-space:nowrap}tr.best td{background:#e9f6ee}img{max-width:100%}
code{background:#f1f3f5;padding:.1rem .3rem;border-radius:.2rem}pre{background:#f1f3f5;padding:.7rem 1rem;
overflow-x:auto}dt{font-weight:600;margin-top:.6rem}dd{margin-left:1.2rem}
dl.facts{display:grid;grid-template-columns:13rem 1fr;gap:.3rem 1rem}.facts dt,.facts dd{margin:0}small{color:#5a6772}
"""


def page(record: LatencyRecord, *, record_name: str) -> str:
    """Return the page as HTML; pictures and files lie beside it.

    Args:
        record: What was measured.
        record_name: Name of the record's file.
    """
    close = fastest(record, CLOSE)
    exact = fastest(record, EXACT)
    parts = [
        "<h1>How long segmenting a CT takes on this machine</h1>",
        '<p class="notice"><b>Research software, not a medical device.</b> Its results are not for diagnosis or '
        "treatment. These are measurements of one CT on one machine.</p>",
        _headline(record, close or exact),
        _machine(record),
        _subject(record),
        _time(record, close),
        _memory(record, close),
        _accuracy(record, close, exact),
        advice(record, close, exact),
        _numbers(record),
        _words(record, record_name),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>gCIS latency</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _headline(record: LatencyRecord, best: Row | None) -> str:
    if best is None:
        return "<p><b>No engine agrees well enough with the reference</b>: see below before using any.</p>"
    again = best.first_result_again_seconds or best.first_result_seconds
    boxes = [
        (f"{best.total.p50:.1f} s", "for one CT, the program being open"),
        (f"{again:.1f} s", "from starting the program to the label map"),
        ("" if best.peak_memory_mb is None else f"{best.peak_memory_mb / 1000:.1f} GB", "of memory at most"),
        (_per_million(best, record), "voxels in a million differ from the exact result"),
    ]
    cells = "".join(f"<div><b>{_e(big)}</b>{_e(small)}</div>" for big, small in boxes if big)
    return f'<p>The fastest engine that is accurate enough here ({CLOSE[0]:.1%} of labels equal, Dice {CLOSE[1]:g}) is <b>{_e(best.name)}</b>:</p><div class="big">{cells}</div>'


def _machine(record: LatencyRecord) -> str:
    e = record.environment
    cgroup, load = e.get("cgroup", {}), e.get("load_average")
    rows = [
        ("Processor", hardware_text(msgspec.to_builtins(record))),
        ("Memory", f"{e['memory_gib']} GiB"),
        ("GPU", ", ".join(g["name"] for g in e.get("gpus", [])) or f"none used: {e.get('gpu_problem')}"),
        ("Limits of the container", _limits(cgroup)),
        ("Clock", "not told" if e["cpu"].get("mhz") is None else f"{e['cpu']['mhz']:.0f} MHz when it began"),
        ("Other work on the machine", "" if load is None else f"load average {load} when it began"),
        ("Priority", e.get("scheduling") or ""),
        ("System", f"{e['system']}, Python {e['python']}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in e["packages"].items())),
        ("Measured", f"{e['date']}, commit {e['commit']}"),
    ]
    return f"<h2>What machine</h2>{_facts(rows)}"


def _subject(record: LatencyRecord) -> str:
    s = record.subject
    extent = " x ".join(f"{n * mm / 10:.0f}" for n, mm in zip(s.voxels, s.spacing_mm, strict=True))
    grid = (
        "the file's own voxels"
        if s.network_spacing_mm is None
        else f"voxels of {by(s.network_spacing_mm)} mm"
    )
    image = (
        "A file of this machine; its name is not recorded"
        if s.image == "a CT file"
        else f"Generated ({s.image})"
    )
    rows = [
        ("CT", image),
        ("Size", f"{by(s.voxels)} voxels of {by(s.spacing_mm)} mm: {extent} cm"),
        ("Network", f"bundle {s.bundle!r}, {s.structures} structures in one pass"),
        (
            "Windows",
            f"{record.rows[0].windows} of {by(s.roi)} {grid}, which overlap by {s.overlap:.0%}",
        ),
    ]
    grows = (
        "the voxels of the file"
        if s.network_spacing_mm is None
        else ("how many cubic centimetres the file covers, not with how fine its voxels are")
    )
    return f"<h2>What CT</h2>{_facts(rows)}<p>Time grows with the number of windows, which grows with {grows}.</p>"


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    """Return names and texts side by side, without those that have no text."""
    cells = "".join(f"<dt>{_e(name)}</dt><dd>{_e(text)}</dd>" for name, text in rows if text)
    return f'<dl class="facts">{cells}</dl>'


def _limits(cgroup: dict[str, object]) -> str:
    cpus, memory = cgroup.get("cpus"), cgroup.get("memory_bytes")
    said = [] if cpus is None else [f"{cpus} processors"]
    said += [f"{memory / 2**30:.1f} GiB of memory"] if isinstance(memory, int) else []
    return " and ".join(said) or "none"


def _time(record: LatencyRecord, best: Row | None) -> str:
    text = [
        "<h2>How long</h2>",
        "<p>Each bar is one engine, a program that computes the network, in one precision. The colours are what "
        "the time goes into: reading the file, preparing voxels, the network itself, blending its overlapping "
        "windows, bringing labels back to the file's grid, and writing them.</p>",
        f'<p><img src="{STAGES_PNG}" alt="Seconds of each stage for each engine"></p>',
        f"<p>The same network in PyTorch took {record.reference.whole_seconds:.1f} s from start to end",
    ]
    if best is None:
        return "".join([*text, ".</p>"])
    again = best.first_result_again_seconds
    ratio = (
        ""
        if again is None
        else (
            f", {record.reference.whole_seconds / again:.1f} times as long as {_e(best.name)} with its start-up"
        )
    )
    text.append(
        f"{ratio}. Opening {_e(best.name)} takes {best.start_first_seconds:.1f} s the first time ever"
    )
    if best.start_again_seconds is not None:
        text.append(f" and {best.start_again_seconds:.1f} s afterwards, since it keeps what it prepared")
    spread = (
        f"half of the runs took at most {best.total.p50:.2f} s and nine in ten at most {best.total.p90:.2f} s"
    )
    return "".join([*text, f". Of {best.repeats} runs, {spread}.</p>"])


def _memory(record: LatencyRecord, best: Row | None) -> str:
    if best is None or best.peak_memory_mb is None:
        return ""
    total = record.environment["memory_gib"] * 1.0737e3
    at_once = max(1, int(0.8 * total / best.peak_memory_mb))
    gpu = f" and {best.device_memory_mb} MB on the GPU" if best.device_memory_mb else ""
    return (
        "<h2>How much memory</h2>"
        f"<p>{_e(best.name)} held {best.peak_memory_mb} MB at its peak{gpu}; PyTorch "
        f"{record.reference.peak_memory_mb or 'an unknown number of'} MB. The memory of this machine would hold "
        f"{at_once} such program{'s' if at_once > 1 else ''} side by side, though each gets only its share of the "
        "processor. Larger CTs need more: memory grows with a slab of the volume, not with the number of structures "
        "times the volume.</p>"
    )


def _accuracy(record: LatencyRecord, close: Row | None, exact: Row | None) -> str:
    best = close or exact
    parts = [
        "<h2>How exact</h2>",
        "<p>The reference is the same network in PyTorch with 32-bit numbers. Faster engines compute with fewer "
        "bits, and a few voxels on the edge of a structure get another label. Lower and further to the left is better.</p>",
        f'<p><img src="{ACCURACY_PNG}" alt="Seconds against voxels that get another label"></p>',
    ]
    if best is not None and best.dice is not None:
        parts.append(
            f"<p>{_e(best.name)}: {best.voxels_unequal} voxels differ, {best.labels_equal:.4%} are equal; the "
            f"structures overlap with the reference's by a Dice of {best.dice:.4f} (1 is the same)."
        )
        if best.dice_truth is not None and record.reference.dice_truth is not None:
            parts.append(
                f" Against the true labels of this generated CT it has {best.dice_truth:.4f}, PyTorch "
                f"{record.reference.dice_truth:.4f}: the engine changes less than the network itself gets wrong."
                if abs(best.dice_truth - record.reference.dice_truth) < 1 - record.reference.dice_truth
                else f" Against the true labels it has {best.dice_truth:.4f}, PyTorch "
                f"{record.reference.dice_truth:.4f}."
            )
        parts.append("</p>")
    parts.append(
        "<p>This says how exactly the network is computed, not how good it is: that depends on its training and "
        "on the patient, and has to be looked at.</p>"
    )
    return "".join(parts)


def _numbers(record: LatencyRecord) -> str:
    return "".join(
        [
            "<h2>All numbers</h2>",
            _table(OVERVIEW_HEAD, overview(record)),
            "<p>Seconds of each stage: median, and in brackets what nine in ten runs stay below.</p>",
            _table(stage_head(), stage_rows(record)),
            "<p>What the network does with its time. The ceiling is a large matrix product in the same engine and "
            "precision, measured in the same process: no network reaches it.</p>",
            _table(WORK_HEAD, work(record)),
        ]
    )


def _words(record: LatencyRecord, record_name: str) -> str:
    return (
        "<h2>Words, and how to repeat this</h2><dl>"
        "<dt>fp32, bf16, int8</dt><dd>32-bit, 16-bit and 8-bit numbers: fewer bits are faster and less exact.</dd>"
        "<dt>Window</dt><dd>The network sees the CT in overlapping boxes; a box of nothing but air is computed "
        "once.</dd>"
        "<dt>Windows/s, GFLOP/s</dt><dd>Windows computed in a second, and billions of multiplications and additions "
        "in a second.</dd>"
        "<dt>First result</dt><dd>From starting the program to the first label map. The first start ever prepares "
        "the engine for this processor and keeps that.</dd>"
        "<dt>Dice</dt><dd>Twice what two shapes share over what both have: 0 for nothing, 1 for the same.</dd>"
        f"</dl><p><small>{_e(record.note)}</small></p>"
        "<pre>python -m benchmarks latency --bundle BUNDLE --image CT.nii.gz -o DIR</pre>"
        f'<p>The same as <a href="{TABLES}">Markdown</a> and as a <a href="{_e(record_name)}">record</a> (JSON).</p>'
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table without the columns that have nothing in them, such as the GPU's memory without a GPU."""
    kept = [place for place in range(len(head)) if any(row[place] for row in rows)]
    top = "".join(f"<th>{_e(head[place])}</th>" for place in kept)
    body = "".join("<tr>" + "".join(f"<td>{_e(row[place])}</td>" for place in kept) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _per_million(row: Row, record: LatencyRecord) -> str:
    x, y, z = record.subject.voxels
    return f"{1e6 * row.voxels_unequal / (x * y * z):.3g}"


def _e(text: str) -> str:
    return html.escape(text)
