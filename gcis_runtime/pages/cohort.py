"""Render the page of many cases: a table with pictures, failures, and the spread of every volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from msgspec import UNSET

from gcis_runtime.pages.renderer import render_page
from gcis_runtime.pages.spread import spread_of
from gcis_runtime.pipeline.report import Report

_STATUS = {
    "done": "done",
    "skipped": "done by an earlier run",
    "failed": "failed",
    "waiting": "not done",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class CohortCase:
    """One case of a run.

    Attributes:
        name: Name of the case.
        image: Path of the image.
        status: `"done"`, `"skipped"`, `"failed"` or `"waiting"`.
        error: Error message; empty without one.
        report: The report; None if the case is not finished.
        page: Path of the case's page relative to the cohort's, with `/`; empty without one.
        thumbnail: Picture as a data URI; empty without one.
    """

    name: str
    image: str
    status: str
    error: str = ""
    report: Report | None = None
    page: str = ""
    thumbnail: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cohort:
    """A run over many cases.

    Attributes:
        bundle: Name of the bundle.
        bundle_sha256: Hash of its manifest.
        bundle_notice: The bundle's notice about its use.
        engine: Description of the engine.
        started: Start of the run, ISO 8601.
        updated: Time of the page, ISO 8601.
        structures: Name of each structure by label value.
        cases: All cases, in order.
    """

    bundle: str
    bundle_sha256: str
    bundle_notice: str
    engine: str
    started: str
    updated: str
    structures: Mapping[int, str]
    cases: tuple[CohortCase, ...]


def cohort_page(cohort: Cohort) -> str:
    """Render the page of a run over many cases.

    Raises:
        GcisError: jinja2 is not installed.
    """
    finished = [case for case in cohort.cases if case.report is not None]
    spreads = {
        value: spread_of(
            {
                case.name: s.volume_ml
                for case in finished
                if case.report is not None
                for s in case.report.structures
                if s.value == value
            }
        )
        for value in cohort.structures
    }
    seconds = [sum(case.report.seconds.values()) for case in finished if case.report is not None]
    return render_page(
        "cohort.html.j2",
        cohort=cohort,
        rows=[_row(case, cohort.structures, spreads) for case in cohort.cases],
        spreads=[(name, spreads[value]) for value, name in cohort.structures.items()],
        links={case.name: _link(case.page) for case in cohort.cases},
        counts=_counts(cohort),
        failed=[case for case in cohort.cases if case.status == "failed"],
        mean_seconds=sum(seconds) / len(seconds) if seconds else None,
    )


def _counts(cohort: Cohort) -> dict[str, int]:
    """Return the number of cases by status, as text."""
    return {text: sum(c.status == status for c in cohort.cases) for status, text in _STATUS.items()}


def _row(case: CohortCase, structures: Mapping[int, str], spreads: Mapping[int, Any]) -> dict[str, Any]:
    """Return what the page shows of a case."""
    report = case.report
    findings: list[str] = []
    warnings: list[str] = []
    if report is not None:
        names = {s.value: s.name for s in report.structures}
        if report.marks is not UNSET:
            findings += [f"{names.get(mark.value, mark.value)}: {mark.short}" for mark in report.marks]
        warnings += [*report.warnings, *report.steps]
    outliers = [name for value, name in structures.items() if case.name in spreads[value].outliers]
    findings += [f"{name}: unusual volume" for name in outliers]
    return {
        "case": case,
        "link": _link(case.page),
        "status": _STATUS[case.status],
        "findings": findings,
        "warnings": warnings,
        "found": None if report is None else sum(s.voxels > 0 for s in report.structures),
        "seconds": None if report is None else sum(report.seconds.values()),
    }


def _link(page: str) -> str:
    """Return a relative address; the leading `./` keeps a file name from being read as a scheme."""
    return f"./{quote(page)}" if page else ""
