"""Write a latency record into a folder: JSON, Markdown, two charts and one HTML page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from gcis_runtime.latency import tables
from gcis_runtime.latency.charts import accuracy_chart, stage_chart
from gcis_runtime.latency.engine_run import STAGES
from gcis_runtime.latency.record import LatencyRecord, Row
from gcis_runtime.latency.record_file import hardware_text, write_record
from gcis_runtime.pages.renderer import check_renderer, make_renderer
from gcis_runtime.system.atomic_files import replacing

_PACKAGE = "gcis_runtime.latency"
STAGES_SVG, ACCURACY_SVG, PAGE, TABLES = "stages.svg", "accuracy.svg", "index.html", "latency.md"
EXACT, CLOSE = (0.9999, 0.995), (0.995, 0.99)
"""Minimum share of equal labels and minimum Dice: for rounding differences only, and for lower precision."""


def write_report(record: LatencyRecord, folder: Path) -> Path:
    """Write record, Markdown, charts and page into a folder; return the path of the page.

    Raises:
        GcisError: jinja2 is not installed.
        OutputError: A file cannot be written.
    """
    check_renderer()
    written = write_record(msgspec.to_builtins(record), folder)
    renderer = make_renderer(_PACKAGE)
    pictures = (("Seconds per stage", STAGES_SVG), ("Time against agreement", ACCURACY_SVG))
    texts = {
        STAGES_SVG: renderer.get_template("stages.svg.j2").render(chart=stage_chart(record)),
        ACCURACY_SVG: renderer.get_template("accuracy.svg.j2").render(chart=accuracy_chart(record)),
        TABLES: tables.markdown(record, pictures=pictures),
        PAGE: page(record, record_name=written.name),
    }
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / PAGE


def page(record: LatencyRecord, *, record_name: str) -> str:
    """Return the HTML page; it links to the charts, the Markdown file and the record in the same folder.

    Args:
        record: The record.
        record_name: File name of the record.
    """
    close, exact = fastest(record, CLOSE), fastest(record, EXACT)
    best = close or exact
    return make_renderer(_PACKAGE).get_template("page.html.j2").render(
        record=record,
        record_name=record_name,
        files={"stages": STAGES_SVG, "accuracy": ACCURACY_SVG, "tables": TABLES},
        close=close,
        exact=exact,
        best=best,
        limits=CLOSE,
        machine=_machine(record),
        subject=_subject(record),
        numbers=_numbers(record),
        # Without a single row that agrees, the page shows the tables and no headline.
        facts=None if best is None else _facts(record, best),
        ran=[row.name for row in record.rows],
        on_gpu=any(row.device != "cpu" for row in record.rows),
    )  # fmt: skip


def fastest(record: LatencyRecord, limits: tuple[float, float]) -> Row | None:
    """Return the fastest engine that agrees with the reference; None if no engine does.

    Args:
        record: The record.
        limits: Minimum share of equal labels, and minimum Dice with the reference. Dice is needed since most
            of a CT is background, which raises the share of equal labels.
    """
    equal, dice = limits
    good = [r for r in record.rows if r.labels_equal >= equal and (r.dice is None or r.dice >= dice)]
    return min(good, key=lambda row: row.total.p50, default=None)


def _facts(record: LatencyRecord, best: Row) -> dict[str, Any]:
    """Return numbers of the page that follow from the fastest engine."""
    memory_mb = record.environment["memory_gib"] * 1.0737e3
    start = best.start_again_seconds or best.start_first_seconds
    return {
        "first_result": best.first_result_again_seconds or best.first_result_seconds,
        "unequal_per_million": f"{1e6 * best.voxels_unequal / math.prod(record.subject.voxels):.3g}",
        "processes": max(1, int(0.8 * memory_mb / best.peak_memory_mb)) if best.peak_memory_mb else None,
        "network_share": best.stages["network"].p50 / best.total.p50,
        "slowest": max((s for s in STAGES if s != "network"), key=lambda s: best.stages[s].p50),
        "start": start,
        "start_matters": start > 0.2 * best.total.p50,
    }


def _machine(record: LatencyRecord) -> list[tuple[str, str]]:
    """Return names and values of the machine; empty values are left out."""
    e = record.environment
    load, mhz = e.get("load_average"), e["cpu"].get("mhz")
    facts = [
        ("Processor", hardware_text(msgspec.to_builtins(record))),
        ("Memory", f"{e['memory_gib']} GiB"),
        ("GPU", ", ".join(g["name"] for g in e.get("gpus", [])) or f"none used: {e.get('gpu_problem')}"),
        ("Limits of the container", _limits(e.get("cgroup", {}))),
        ("Clock", "" if mhz is None else f"{mhz:.0f} MHz at the start"),
        ("Other load", "" if load is None else f"load average {load} at the start"),
        ("Priority", e.get("scheduling") or ""),
        ("System", f"{e['system']}, Python {e['python']}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in e["packages"].items())),
        ("Measured", f"{e['date']}" + (f", commit {e['commit']}" if e["commit"] else "")),
    ]
    return [(name, text) for name, text in facts if text]


def _limits(cgroup: dict[str, Any]) -> str:
    cpus, memory = cgroup.get("cpus"), cgroup.get("memory_bytes")
    limits = [] if cpus is None else [f"{cpus} processors"]
    limits += [f"{memory / 2**30:.1f} GiB of memory"] if isinstance(memory, int) else []
    return " and ".join(limits) or "none"


def _subject(record: LatencyRecord) -> list[tuple[str, str]]:
    """Return names and values of image, network and windows."""
    s = record.subject
    extent = " x ".join(f"{n * mm / 10:.0f}" for n, mm in zip(s.voxels, s.spacing_mm, strict=True))
    image = "A file; its name is not recorded" if s.image == "a CT file" else f"Generated ({s.image})"
    grid = "the file's voxels"
    if s.network_spacing_mm is not None:
        grid = f"voxels of {tables.by(s.network_spacing_mm)} mm"
    windows = f"{record.rows[0].windows} of {tables.by(s.roi)} {grid}, overlapping by {s.overlap:.0%}"
    return [
        ("CT", image),
        ("Size", f"{tables.by(s.voxels)} voxels of {tables.by(s.spacing_mm)} mm: {extent} cm"),
        ("Network", f"bundle {s.bundle!r}, {s.structures} structures in one pass"),
        ("Windows", windows),
    ]


def _numbers(record: LatencyRecord) -> list[dict[str, Any]]:
    """Return the three tables without empty columns, such as the memory of a GPU on a machine without one."""
    texts = (
        "",
        "Seconds per stage: median, and the 90th percentile in brackets.",
        "Work of the network. The ceiling is a large matrix product in the same engine and precision, "
        "measured in the same process; networks stay below it.",
    )
    heads = (tables.overview_head(record), tables.stage_head(), tables.WORK_HEAD)
    bodies = (tables.overview(record), tables.stage_rows(record), tables.work(record))
    found = []
    for text, head, rows in zip(texts, heads, bodies, strict=True):
        kept = [place for place in range(len(head)) if any(row[place] for row in rows)]
        body = [[row[place] for place in kept] for row in rows]
        found.append({"text": text, "head": [head[place] for place in kept], "rows": body})
    return found
