"""What `gcis-run` shows while cases run: tables for one image, lines for many, progress for people."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from gcis_runtime.cli.tables import counts_text, report_table
from gcis_runtime.pipeline.forecast import Forecast
from gcis_runtime.pipeline.segmenter import Segmenter
from gcis_runtime.runs.cohort import EXPECTED, Outcome
from gcis_runtime.runs.outputs import Job
from gcis_runtime.runs.summary import Summary
from gcis_runtime.system.console import error_line
from gcis_runtime.text import printable


class Display:
    """Shows and collects how cases end.

    Args:
        program: Begins lines of errors and warnings.
        jobs: All cases.
        summary: Takes every outcome; None where there is no summary, and each image gets a table.
        quiet: Print nothing on stdout.

    Attributes:
        reports: Reports so far.
        errors: Errors so far: image and one line.
    """

    def __init__(self, program: str, jobs: Sequence[Job], summary: Summary | None, *, quiet: bool) -> None:
        self._program, self._summary, self._quiet = program, summary, quiet
        self._number = {(job.image, job.name): number for number, job in enumerate(jobs, start=1)}
        self._watched = sys.stderr.isatty()
        self.reports: list[dict[str, Any]] = []
        self.errors: list[dict[str, str]] = []

    def opened(self, segmenter: Segmenter) -> None:
        """Say what computes: to people, and of one image always; and what opening it did."""
        if self._talks:
            self._line(f"{segmenter.bundle.name}: {segmenter.engine.text}")
        for note in segmenter.notes:
            self._line(f"{self._program}: note: {note}")

    @property
    def _talks(self) -> bool:
        return not self._quiet and (self._summary is None or self._watched)

    def done(self, outcome: Outcome) -> None:
        """Show how a case ended; errors and warnings go to stderr."""
        job, report = outcome.job, outcome.report
        if outcome.error is not None or report is None:
            self._failed(job, outcome.error)
            return
        self.reports.append(report)
        if self._summary is not None:
            self._summary.finished(job, report)
        for step in report["steps"]:
            self._line(f"{self._program}: note: {job.image}: {step}")
        for warning in report["warnings"]:
            self._line(f"{self._program}: warning: {job.image}: {warning}")
        if self._summary is None:
            if not self._quiet:
                click.echo(report_table(report))
        elif self._watched:
            self._line(f"{self._place(job)}: {sum(report['seconds'].values()):.1f} s")

    def _failed(self, job: Job, error: Exception | None) -> None:
        error = error or RuntimeError("no result")
        line = error_line(error)
        if not isinstance(error, EXPECTED):
            line = f"{type(error).__name__}: {line}"
        if len(self._number) > 1 and str(job.image) not in line:
            line = f"{job.image}: {line}"
        self._line(f"{self._program}: error: {line}")
        self.errors.append({"image": str(job.image), "error": line})
        if self._summary is not None:
            self._summary.failed(job, line)

    def on_forecast(self, job: Job, forecast: Forecast) -> None:
        """Say what a case will take: of the only image always, of many to people."""
        if self._talks:
            self._line(f"{self._place(job)}: forecast: {forecast.text}")

    def progress(self, job: Job) -> Callable[[int, int], None] | None:
        """Return a callback that keeps one line on a terminal, or None where nobody watches."""
        if not self._watched:
            return None

        def show(finished: int, total: int) -> None:
            end = "\r\033[K" if finished == total else ""
            click.echo(f"\r{self._place(job)}: window {finished} of {total}{end}", err=True, nl=False)

        return show

    def _line(self, text: str) -> None:
        """Print on stderr, over the line of progress."""
        click.echo(("\r\033[K" if self._watched else "") + printable(text), err=True)

    def _place(self, job: Job) -> str:
        return f"[{self._number[job.image, job.name]}/{len(self._number)}] {printable(job.name)}"

    def interrupted(self) -> None:
        """Say what an interrupt left, and how to go on."""
        if self._summary is not None:
            self._line(
                f"{self._program}: {counts_text(self._summary.counts)}; "
                "the same command with --resume goes on from there"
            )

    def end(self) -> None:
        """Say where the results of many cases are."""
        if self._summary is not None and not self._quiet:
            click.echo(f"{counts_text(self._summary.counts)}\nwrote {self._summary.path}")
