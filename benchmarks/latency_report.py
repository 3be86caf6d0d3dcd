"""A latency record for people: Markdown tables, and everything in one folder with its pictures and page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.engine_run import STAGES
from benchmarks.latency_record import LatencyRecord, Row
from benchmarks.records import hardware_text, newest, write_record
from gcis_runtime.system.atomic_files import replacing

STAGES_PNG, ACCURACY_PNG, PAGE, TABLES = "stages.png", "accuracy.png", "index.html", "latency.md"


def write_report(record: LatencyRecord, folder: Path) -> Path:
    """Write record, Markdown, pictures and page into a folder; returns the page's path.

    Raises:
        OutputError: A file cannot be written.
    """
    from benchmarks.latency_page import page  # noqa: PLC0415 (it reads the names above)
    from benchmarks.latency_plots import draw_accuracy, draw_stages  # noqa: PLC0415 (matplotlib takes a second)

    written = write_record(msgspec.to_builtins(record), folder)
    draw_stages(record, folder / STAGES_PNG)
    draw_accuracy(record, folder / ACCURACY_PNG)
    for name, text in ((TABLES, markdown(record)), (PAGE, page(record, record_name=written.name))):
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / PAGE


def markdown(record: LatencyRecord) -> str:
    """Return the whole report as Markdown."""
    parts = [
        "# Latency",
        f"{subject_text(record)} {machine_text(record)}",
        "## Time, memory and accuracy",
        table(OVERVIEW_HEAD, overview(record)),
        "## Seconds of each stage: median (nine in ten)",
        table(stage_head(), stage_rows(record)),
        "## Work",
        table(WORK_HEAD, work(record)),
        *(f"- {m.name} did not run: {m.reason}" for m in record.missing),
        record.note,
        f"![Stages]({STAGES_PNG})",
        f"![Time against accuracy]({ACCURACY_PNG})",
    ]
    return "\n\n".join(parts) + "\n"


def latency_block() -> str:
    """Return the newest committed record as the tables of docs/performance.md."""
    record = msgspec.convert(newest("latency"), LatencyRecord)
    return "\n\n".join(
        [
            table(OVERVIEW_HEAD, overview(record)),
            table(stage_head(), stage_rows(record)),
            table(WORK_HEAD, work(record)),
            f"{subject_text(record)} {machine_text(record)} {record.note} Repeat with "
            "`python -m benchmarks latency -o DIR`.",
        ]
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


OVERVIEW_HEAD = (
    "engine", "seconds a CT", "first result, first ever / later (s)", "memory (MB)", "GPU memory (MB)",
    "labels equal", "voxels unequal", "Dice against PyTorch", "Dice against the truth",
)  # fmt: skip


def overview(record: LatencyRecord) -> list[list[str]]:
    """Return the rows that most readers want, PyTorch first."""
    r = record.reference
    first = [
        "PyTorch fp32, MONAI", f"{r.whole_seconds:.1f} (whole process)", "", _number(r.peak_memory_mb), "",
        "reference", "", "", _dice(r.dice_truth),
    ]  # fmt: skip
    rows = []
    for row in record.rows:
        later = "" if row.first_result_again_seconds is None else f" / {row.first_result_again_seconds:.1f}"
        rows.append(
            [
                row.name,
                f"{row.total.p50:.2f}",
                f"{row.first_result_seconds:.1f}{later}",
                _number(row.peak_memory_mb),
                _number(row.device_memory_mb),
                f"{row.labels_equal:.4%}",
                str(row.voxels_unequal),
                _dice(row.dice),
                _dice(row.dice_truth),
            ]
        )
    return [first, *rows]


def stage_head() -> list[str]:
    """Return the head of the stages' table."""
    return ["engine", *STAGES, "in all"]


def stage_rows(record: LatencyRecord) -> list[list[str]]:
    """Return p50 (p90) of every stage."""
    return [
        [row.name]
        + [f"{s.p50:.3f} ({s.p90:.3f})" for s in (*(row.stages[name] for name in STAGES), row.total)]
        for row in record.rows
    ]


WORK_HEAD = (
    "engine", "windows computed", "windows/s", "GFLOP/s", "ceiling, GFLOP/s", "share",
    "start, first / later (s)",
)  # fmt: skip


def work(record: LatencyRecord) -> list[list[str]]:
    """Return what the engine does in its time, against what the machine could."""
    rows = []
    for row in record.rows:
        later = "" if row.start_again_seconds is None else f" / {row.start_again_seconds:.2f}"
        rows.append(
            [
                row.name,
                f"{row.windows_computed} of {row.windows}",
                f"{row.windows_per_second:.2f}",
                f"{row.gflops:.1f}",
                "" if row.ceiling_gflops is None else f"{row.ceiling_gflops:.1f}",
                "" if row.share_of_ceiling is None else f"{row.share_of_ceiling:.0%}",
                f"{row.start_first_seconds:.2f}{later}",
            ]
        )
    return rows


def subject_text(record: LatencyRecord) -> str:
    """Say what was segmented."""
    s = record.subject
    image = "A CT file" if s.image == "a CT file" else f"A generated CT ({s.image})"
    grid = "the file's grid" if s.network_spacing_mm is None else f"{by(s.network_spacing_mm)} mm"
    return (
        f"{image}, {by(s.voxels)} voxels of {by(s.spacing_mm)} mm; bundle {s.bundle!r}, {s.structures} "
        f"structures, windows of {by(s.roi)} on {grid}, overlap {s.overlap:g}."
    )


def machine_text(record: LatencyRecord) -> str:
    """Say on what and when, and how often."""
    e = record.environment
    return (
        f"{e['date'][:10]}, {hardware_text(msgspec.to_builtins(record))}, scheduling "
        f"{e.get('scheduling')}, commit {e['commit']}; "
        f"{record.rounds} processes of each engine in turns, {record.repeats} timed runs in each."
    )


def fastest(record: LatencyRecord, limits: tuple[float, float]) -> Row | None:
    """Return the fastest engine that agrees well enough; None where none does.

    Args:
        record: The record.
        limits: Least share of equal labels, and least Dice with the reference: most of a CT is background,
            which makes the share alone look good.
    """
    equal, dice = limits
    good = [r for r in record.rows if r.labels_equal >= equal and (r.dice is None or r.dice >= dice)]
    return min(good, key=lambda row: row.total.p50, default=None)


def by(values: Sequence[float]) -> str:
    """Say numbers of the three axes."""
    return " x ".join(f"{value:g}" for value in values)


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _dice(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
