"""Show a run of `gcis-run`: a table for one image, one line per image for many, progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from gcis_runtime.cli.tables import counts_text, report_table
from gcis_runtime.pipeline.forecast import Forecast
from gcis_runtime.runs.callbacks import RunCallbacks, RunStart
from gcis_runtime.runs.outcome import Outcome, RunResult
from gcis_runtime.runs.outputs import Job
from gcis_runtime.runs.summary import Summary
from gcis_runtime.system.console import echo, print_traceback
from gcis_runtime.system.json_files import json_text
from gcis_runtime.text import printable


class Display:
    """Prints the events of a run.

    Args:
        program: First word of lines with errors and warnings.
        quiet: Print only one JSON document on standard output.
    """

    def __init__(self, program: str, *, quiet: bool) -> None:
        self._program, self._quiet = program, quiet
        self._terminal = sys.stderr.isatty()
        self._numbers: dict[tuple[str, str], int] = {}
        self._summary: Summary | None = None

    @property
    def callbacks(self) -> RunCallbacks:
        """The callbacks that print."""
        return RunCallbacks(
            on_start=self.on_start,
            on_done=self.on_done,
            on_progress=self.on_progress,
            on_forecast=self.on_forecast,
        )

    def on_start(self, start: RunStart) -> None:
        """Print the engine (for several images only on a terminal) and the messages from opening it."""
        self.set_jobs(start.jobs)
        self._summary = start.summary
        if self._informative:
            self._line(f"{start.identity.bundle.name}: {start.identity.engine.text}")
        for note in start.notes:
            self._line(f"{self._program}: note: {note}")

    def set_jobs(self, jobs: Sequence[Job]) -> None:
        """Number the cases of the run."""
        self._numbers = {(str(job.image), job.name): number for number, job in enumerate(jobs, start=1)}

    @property
    def _informative(self) -> bool:
        return not self._quiet and (self._summary is None or self._terminal)

    def on_done(self, outcome: Outcome) -> None:
        """Print the outcome of a case; errors and warnings go to standard error."""
        job, report = outcome.job, outcome.report
        if report is None:
            if outcome.error is not None:
                print_traceback(outcome.error)
            self._line(f"{self._program}: error: {outcome.message(several=len(self._numbers) > 1)}")
            return
        for step in report.steps:
            self._line(f"{self._program}: note: {job.image}: {step}")
        for warning in report.warnings:
            self._line(f"{self._program}: warning: {job.image}: {warning}")
        if self._summary is None:
            if not self._quiet:
                echo(report_table(report))
        elif self._terminal:
            self._line(f"{self._place(job)}: {sum(report.seconds.values()):.1f} s")

    def on_forecast(self, job: Job, forecast: Forecast) -> None:
        """Print the forecast of a case (for several images only on a terminal)."""
        if self._informative:
            self._line(f"{self._place(job)}: forecast: {forecast.text}")

    def on_progress(self, job: Job) -> Callable[[int, int], None] | None:
        """Return a callback that updates one line on a terminal; None if standard error is not a terminal."""
        if not self._terminal:
            return None

        def show(finished: int, total: int) -> None:
            end = "\r\033[K" if finished == total else ""
            click.echo(f"\r{self._place(job)}: window {finished} of {total}{end}", err=True, nl=False)

        return show

    def _line(self, text: str) -> None:
        """Print a line on standard error; it replaces the progress line."""
        click.echo(("\r\033[K" if self._terminal else "") + printable(text), err=True)

    def _place(self, job: Job) -> str:
        number = self._numbers[str(job.image), job.name]
        return f"[{number}/{len(self._numbers)}] {printable(job.name)}"

    def interrupted(self) -> None:
        """Print the counts of an interrupted run, and how to continue it."""
        if self._summary is not None:
            self._line(
                f"{self._program}: {counts_text(self._summary.counts)}; "
                "repeat the command with --resume to continue"
            )

    def end(self, result: RunResult) -> None:
        """Print the counts of several images, or the JSON document."""
        if self._quiet:
            echo(json_text(_document(result)))
        elif result.summary is not None:
            echo(f"{counts_text(result.summary.counts)}\nwrote {result.summary_file}")


def _document(result: RunResult) -> dict[str, Any]:
    document: dict[str, Any] = {
        "results": result.reports,
        "errors": [{"image": str(e.image), "error": e.error} for e in result.errors],
    }
    if result.summary is not None:
        counts = {status: count for status, count in result.summary.counts.items() if count}
        document |= {"counts": counts, "summary": str(result.summary_file)}
    return document
