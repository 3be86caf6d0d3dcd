"""Define the outcome of one image, and the result of a run over image files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gcis_runtime.errors import GcisError
from gcis_runtime.pipeline.report import Report
from gcis_runtime.runs.outputs import Job
from gcis_runtime.runs.summary_document import SummaryDocument
from gcis_runtime.text import error_text

EXPECTED = (GcisError, OSError, MemoryError)
"""Errors that an image may cause. Any other exception is a defect of the program."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The outcome of a case: a report or an error.

    Attributes:
        job: The case.
        report: Its report; None if it failed.
        error: The exception; None if it succeeded.
    """

    job: Job
    report: Report | None = None
    error: Exception | None = None

    def message(self, *, several: bool) -> str:
        """Return the error in one line; the type's name comes first if the error was not expected.

        Args:
            several: Whether the run has several images, so that the line must name this one.
        """
        error = self.error or RuntimeError("no result")
        line = error_text(error)
        if not isinstance(error, EXPECTED):
            line = f"{type(error).__name__}: {line}"
        image = str(self.job.image)
        return f"{image}: {line}" if several and image not in line else line


@dataclass(frozen=True, kw_only=True)
class CaseError:
    """An image that failed, and its error in one line."""

    image: Path
    error: str


@dataclass(frozen=True, kw_only=True, eq=False)
class RunResult:
    """The result of a run over image files.

    Attributes:
        reports: Reports of the images that this run segmented, in order.
        errors: Images that failed, in order.
        skipped: Reports of the images that an earlier run had finished.
        summary: Content of `summary.json`; None for a single image without a summary.
        summary_file: Path of `summary.csv`; None as above.
    """

    reports: tuple[Report, ...]
    errors: tuple[CaseError, ...]
    skipped: tuple[Report, ...] = ()
    summary: SummaryDocument | None = None
    summary_file: Path | None = None
