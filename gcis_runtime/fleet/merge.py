"""Join the summaries of the shards of a run to the summary that one run over all images writes."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET

from gcis_runtime.errors import OutputError
from gcis_runtime.pipeline.report import REPORT_VERSION, Report
from gcis_runtime.runs.inputs import Source
from gcis_runtime.runs.outputs import unchecked_job
from gcis_runtime.runs.statistics import COLUMNS, no_formula
from gcis_runtime.runs.summary_document import (
    SUMMARY_VERSION,
    CaseSummary,
    ShardSummary,
    SummaryDocument,
    SummaryFiles,
    count_statuses,
)
from gcis_runtime.system.own_files import read_small
from gcis_runtime.system.records import read_record
from gcis_runtime.text import counted

_SHARD_FILE = re.compile(r"summary\.shard-\d+-of-\d+\.json")
_MOST_BYTES = 256 << 20
"""Largest summary or table of statistics that is read: a case takes about a kilobyte."""
_VALUE, _VOLUME = COLUMNS.index("value"), COLUMNS.index("volume_ml")


def merge_summaries(paths: Sequence[Path]) -> tuple[SummaryDocument, Path]:
    """Join the summaries of all shards of a run, and write `summary.json` and `summary.csv` next to them.

    `statistics.csv` and the page `summary.html` are written if every shard wrote its own.

    Args:
        paths: The folder of the shards' summaries, or their JSON files.

    Returns:
        The summary, and the path of `summary.csv`.

    Raises:
        OutputError: There is no summary of a shard, a shard is missing or twice, the shards are of different
            runs, a table of statistics is not of the run of its summary, or a file cannot be read or written.
        GcisError: There are pages, and jinja2 is not installed.
    """
    files = _find(paths)
    found = {file: _read(file) for file in files}
    parts = _in_order(found)
    document = _joined([document for _, document, _ in parts])
    tables = [SummaryFiles.of(file.parent, shard).statistics for file, _, shard in parts]
    rows = _statistics(document, tables) if all(table.is_file() for table in tables) else None
    target = SummaryFiles.of(files[0].parent)
    target.write(document, rows, escaped=True)
    if all(SummaryFiles.of(file.parent, shard).page.is_file() for file, _, shard in parts):
        _write_page(target.page, document)
    return document, target.csv


def _write_page(file: Path, document: SummaryDocument) -> None:
    """Write the page of the run from the reports next to the label maps, or, if moved, next to the page."""
    from gcis_runtime.runs.summary_page import write_run_page  # noqa: PLC0415 (needs jinja2)

    reports, pages = {}, {}
    for case in document.cases:
        if case.labels is UNSET:
            continue
        source = Source(image=Path(case.image), name=case.case)
        for folder in (Path(case.labels).parent, file.parent):
            job = unchecked_job(source, folder, formats=("nii.gz",))
            report = read_record(job.report, Report, newest=REPORT_VERSION).value
            if report is not None:
                reports[case.case], pages[case.case] = report, job.page
                break
    write_run_page(file, document, reports, pages)


def _find(paths: Sequence[Path]) -> list[Path]:
    """Return the JSON files of the shards."""
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(file for file in path.iterdir() if _SHARD_FILE.fullmatch(file.name))
        if not found:
            raise OutputError(
                f"{path} has no summary of a shard",
                expected="files such as summary.shard-1-of-4.json",
                fix="Pass the output folder of gcis-run --shard.",
            )
        files += found
    return files


def _read(file: Path) -> tuple[SummaryDocument, ShardSummary]:
    if not file.exists():
        raise OutputError(f"{file} does not exist", fix="Pass the output folder of gcis-run --shard.")
    read = read_record(file, SummaryDocument, most_bytes=_MOST_BYTES, newest=SUMMARY_VERSION)
    document = read.value
    if document is None or document.shard is UNSET:
        raise OutputError(
            f"{file} is not the summary of a shard",
            received=read.note or "the summary of a whole run",
            expected="a file such as summary.shard-1-of-4.json, written by gcis-run --shard",
            fix="Pass the output folder of gcis-run --shard.",
        )
    return document, document.shard


def _in_order(
    found: dict[Path, tuple[SummaryDocument, ShardSummary]],
) -> list[tuple[Path, SummaryDocument, ShardSummary]]:
    """Return the shards by number, after checking that they are all shards of one run."""
    first_file, (first, shard) = next(iter(found.items()))
    parts: dict[int, tuple[Path, SummaryDocument, ShardSummary]] = {}
    for file, (document, other) in found.items():
        for what, ours, theirs in (
            ("are of runs with different numbers of shards", shard.count, other.count),
            ("are of runs over different images", _list_text(shard), _list_text(other)),
            ("are of runs with different bundles", first.bundle.sha256, document.bundle.sha256),
            ("are of runs with different structures", _names(first), _names(document)),
            ("are of runs with different engines", _engine(first), _engine(document)),
        ):
            if ours != theirs:
                raise OutputError(
                    f"{first_file} and {file} {what}",
                    received=f"{ours} and {theirs}",
                    fix="Remove the summaries of the other run, or repeat its shards with the same options.",
                )
        if other.number in parts:
            raise OutputError(
                f"shard {other.number}/{other.count} is there twice",
                received=f"{parts[other.number][0]} and {file}",
                fix="Pass each shard once.",
            )
        parts[other.number] = (file, document, other)
    missing = [str(number) for number in range(1, shard.count + 1) if number not in parts]
    if missing:
        raise OutputError(
            f"{counted(len(missing), 'shard')} of {shard.count} wrote no summary",
            received=f"shards {', '.join(map(str, sorted(parts)))}",
            expected=f"also {', '.join(missing)}",
            fix=f"Run gcis-run --shard {missing[0]}/{shard.count} with the same images and -o.",
        )
    return [parts[number] for number in sorted(parts)]


def _list_text(shard: ShardSummary) -> str:
    return f"{counted(shard.images, 'image')} (list {shard.list_sha256[:12]})"


def _names(document: SummaryDocument) -> str:
    return ", ".join(f"{s.value} {s.name}" for s in document.structures)


def _engine(document: SummaryDocument) -> str:
    """Return the engine without its number of threads, which may differ between machines."""
    return re.sub(r", \d+ threads$", "", document.engine)


def _joined(parts: Sequence[SummaryDocument]) -> SummaryDocument:
    """Return the summary of the whole run; its cases are in the order of the images."""
    cases: list[CaseSummary] = []
    for row in range(max(len(part.cases) for part in parts)):
        cases += [part.cases[row] for part in parts if row < len(part.cases)]
    peaks = [part.peak_memory_bytes for part in parts if part.peak_memory_bytes is not None]
    return msgspec.structs.replace(
        parts[0],
        started=min(part.started for part in parts),
        updated=max(part.updated for part in parts),
        counts=count_statuses(cases),
        peak_memory_bytes=max(peaks, default=None),
        cases=cases,
        shard=UNSET,
    )


def _statistics(document: SummaryDocument, tables: Sequence[Path]) -> list[list[str]]:
    """Return the rows of the tables of statistics, in the order of the cases."""
    rows: dict[str, list[list[str]]] = {}
    for table in tables:
        for row in _read_table(table):
            rows.setdefault(row[0], []).append(row)
    found = [rows.get(no_formula(case.case), []) for case in document.cases]
    for case, mine in zip(document.cases, found, strict=True):
        if not _same_volumes(case, mine):
            raise OutputError(
                f"the statistics of {case.case} are not those of its summary",
                received="a table of an earlier run",
                fix="Repeat the shards with --statistics and --resume, or remove statistics.shard-*.csv.",
            )
    return [row for mine in found for row in mine]


def _read_table(table: Path) -> list[list[str]]:
    """Return the rows of a table of statistics without its header."""
    try:
        text = read_small(table, most_bytes=_MOST_BYTES).decode("utf-8")
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        if tuple(header) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
            raise ValueError("columns that are not those of a table of statistics")
    except (OSError, ValueError, csv.Error) as error:
        raise OutputError(
            f"{table} cannot be read",
            received=str(error),
            fix="Repeat the shard with --statistics and --resume.",
        ) from error
    return rows


def _same_volumes(case: CaseSummary, rows: Sequence[Sequence[str]]) -> bool:
    """Return whether rows have the structures and volumes that the summary of the case has."""
    found = {row[_VALUE]: row[_VOLUME] for row in rows}
    expected = case.volumes_ml or {}
    if found.keys() != expected.keys():
        return False
    try:
        return all(math.isclose(float(found[v]), ml, abs_tol=1e-3) for v, ml in expected.items())
    except ValueError:
        return False
