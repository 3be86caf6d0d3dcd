"""Write `summary.html` next to `summary.csv`, the page of a run over many images, while the run continues."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import UNSET

from gcis_runtime.pages.cohort import Cohort, CohortCase, cohort_page
from gcis_runtime.pages.renderer import write_page
from gcis_runtime.pages.thumbnail import read_thumbnail
from gcis_runtime.pipeline.report import Report
from gcis_runtime.runs.outputs import Job
from gcis_runtime.runs.summary import Summary
from gcis_runtime.runs.summary_document import CaseSummary, SummaryDocument

_INTERVAL = 10.0
"""Shortest time in seconds between two versions: the page of 1000 cases has several megabytes."""


class SummaryPage:
    """The page of a run. It is written on creation, then after writes of the summary, and by `write`.

    Args:
        summary: The summary; its `on_write` is set.
        jobs: All cases.
        interval: Shortest time in seconds between two versions.

    Raises:
        OutputError: The page cannot be written.
    """

    def __init__(self, summary: Summary, jobs: Sequence[Job], *, interval: float = _INTERVAL) -> None:
        self._summary, self._interval = summary, interval
        self._file = summary.path.with_suffix(".html")
        self._pages = {job.name: job.page for job in jobs}
        self.write()
        summary.on_write = self._update

    def _update(self) -> None:
        """Write a new version if the last one is old enough."""
        if time.monotonic() - self._written >= self._interval:
            self.write()

    def write(self) -> None:
        """Write a new version.

        Raises:
            OutputError: The page cannot be written.
        """
        write_run_page(self._file, self._summary.document(), self._summary.reports, self._pages)
        self._written = time.monotonic()


def write_run_page(
    file: Path, document: SummaryDocument, reports: Mapping[str, Report], pages: Mapping[str, Path]
) -> None:
    """Write the page of a run.

    Args:
        file: The page.
        document: The summary of the run.
        reports: Reports of the finished cases, by case; a case without one is listed without values.
        pages: The page of each case that has a report.

    Raises:
        OutputError: The page cannot be written.
        GcisError: jinja2 is not installed.
    """

    def case_of(case: CaseSummary) -> CohortCase:
        report = reports.get(case.case)
        page = None if report is None or report.report_html is UNSET else pages[case.case]
        return CohortCase(
            name=case.case,
            image=case.image,
            status=case.status,
            error=case.error or "",
            report=report,
            page="" if page is None else Path(os.path.relpath(page, file.parent)).as_posix(),
            thumbnail="" if page is None else read_thumbnail(page),
        )

    cohort = Cohort(
        bundle=document.bundle.name,
        bundle_sha256=document.bundle.sha256,
        bundle_notice=next((report.notice for report in reports.values()), ""),
        engine=document.engine,
        started=document.started,
        updated=document.updated,
        structures={s.value: s.name for s in document.structures},
        cases=tuple(map(case_of, document.cases)),
    )
    write_page(file, cohort_page(cohort))
