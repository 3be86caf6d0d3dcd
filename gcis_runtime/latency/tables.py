"""Format a latency record as tables of text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gcis_runtime.latency.engine_run import STAGES
from gcis_runtime.latency.record import PYTORCH, LatencyRecord
from gcis_runtime.latency.record_file import hardware_text

WORK_HEAD = (
    "engine", "windows computed", "windows/s", "GFLOP/s", "ceiling, GFLOP/s", "share",
    "start, first / later (s)",
)  # fmt: skip


def markdown(record: LatencyRecord, *, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """Return the complete record as Markdown.

    Args:
        record: The record.
        pictures: Title and file of each picture to show.
    """
    parts = [
        "# Latency",
        f"{subject_text(record)} {machine_text(record)}",
        "## Time, memory and agreement",
        table(overview_head(record), overview(record)),
        "## Seconds per stage: median (90th percentile)",
        table(stage_head(), stage_rows(record)),
        "## Work",
        table(WORK_HEAD, work(record)),
        *(f"- {m.name} did not run: {m.reason}" for m in record.missing),
        record.note,
        *(f"![{title}]({file})" for title, file in pictures),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def overview_head(record: LatencyRecord) -> tuple[str, ...]:
    """Return the column titles of `overview`."""
    reference = "PyTorch" if record.reference.name == PYTORCH else record.reference.name
    return (
        "engine", "seconds per CT", "first result, empty cache / later (s)", "memory (MB)", "GPU memory (MB)",
        "labels equal", "voxels unequal", f"Dice against {reference}", "Dice against the truth",
    )  # fmt: skip


def overview(record: LatencyRecord) -> list[list[str]]:
    """Return time, memory and agreement of each engine; a reference that is not a row comes first."""
    r = record.reference
    first = [
        r.name, f"{r.whole_seconds:.1f} (whole process)", "", _number(r.peak_memory_mb), "",
        "reference", "", "", _dice(r.dice_truth),
    ]  # fmt: skip
    rows = [first] if record.from_pytorch else []
    for row in record.rows:
        later = "" if row.first_result_again_seconds is None else f" / {row.first_result_again_seconds:.1f}"
        same = ["reference", "", ""]
        if row.name != r.name:
            same = [f"{row.labels_equal:.4%}", str(row.voxels_unequal), _dice(row.dice)]
        rows.append(
            [
                row.name,
                f"{row.total.p50:.2f}",
                f"{row.first_result_seconds:.1f}{later}",
                _number(row.peak_memory_mb),
                _number(row.device_memory_mb),
                *same,
                _dice(row.dice_truth),
            ]
        )
    return rows


def stage_head() -> list[str]:
    """Return the column titles of `stage_rows`."""
    return ["engine", *STAGES, "total"]


def stage_rows(record: LatencyRecord) -> list[list[str]]:
    """Return median and 90th percentile of each stage in seconds, `p50 (p90)`."""
    return [
        [row.name]
        + [f"{s.p50:.3f} ({s.p90:.3f})" for s in (*(row.stages[name] for name in STAGES), row.total)]
        for row in record.rows
    ]


def work(record: LatencyRecord) -> list[list[str]]:
    """Return the work of each engine, its rate, and the ceiling of the machine."""
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
    """Describe the image, the bundle and its windows in one sentence."""
    s = record.subject
    image = "A CT file" if s.image == "a CT file" else f"A generated CT ({s.image})"
    grid = "the native grid" if s.network_spacing_mm is None else f"{by(s.network_spacing_mm)} mm"
    return (
        f"{image}, {by(s.voxels)} voxels of {by(s.spacing_mm)} mm; bundle {s.bundle!r}, {s.structures} "
        f"structures, windows of {by(s.roi)} on {grid}, overlap {s.overlap:g}."
    )


def machine_text(record: LatencyRecord) -> str:
    """Describe date, machine and number of runs in one sentence."""
    e = record.environment
    return (
        f"{e['date'][:10]}, {hardware_text(msgspec.to_builtins(record))}, scheduling "
        f"{e.get('scheduling')}, commit {e['commit']}; "
        f"{record.rounds} processes of each engine in turns, {record.repeats} timed runs in each."
    )


def by(values: Sequence[float]) -> str:
    """Join the numbers of the three axes, such as `64 x 64 x 64`."""
    return " x ".join(f"{value:g}" for value in values)


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _dice(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
