"""Write `summary.html` next to `summary.csv`, the page of a run over many images, while the run continues."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import UNSET

from gcis_runtime.pages.cohort import Cohort, CohortCase, cohort_page
from gcis_runtime.pages.renderer import write_page
from gcis_runtime.pages.thumbnail import read_thumbnail
from gcis_runtime.runs.outputs import Job
from gcis_runtime.runs.summary import Summary
from gcis_runtime.runs.summary_document import CaseSummary

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
        document = self._summary.document()
        cohort = Cohort(
            bundle=document.bundle.name,
            bundle_sha256=document.bundle.sha256,
            bundle_notice=next((report.notice for report in self._summary.reports.values()), ""),
            engine=document.engine,
            started=document.started,
            updated=document.updated,
            structures={s.value: s.name for s in document.structures},
            cases=tuple(map(self._case, document.cases)),
        )
        write_page(self._file, cohort_page(cohort))
        self._written = time.monotonic()

    def _case(self, case: CaseSummary) -> CohortCase:
        report, page = self._summary.reports.get(case.case), self._pages[case.case]
        shown = report is not None and report.report_html is not UNSET
        return CohortCase(
            name=case.case,
            image=case.image,
            status=case.status,
            error=case.error or "",
            report=report,
            page=Path(os.path.relpath(page, self._file.parent)).as_posix() if shown else "",
            thumbnail=read_thumbnail(page) if shown else "",
        )
