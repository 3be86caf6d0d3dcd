"""Run one job: find its image, read, segment, write and report it with the functions of a run over files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gcis_runtime.choices import LABEL_FORMATS
from gcis_runtime.errors import ImageError
from gcis_runtime.images.suffixes import suffix_of
from gcis_runtime.pipeline.forecast import Forecast
from gcis_runtime.pipeline.options import Callbacks
from gcis_runtime.pipeline.report import Report
from gcis_runtime.runs.case import read_case, segment_case, write_case
from gcis_runtime.runs.inputs import Source, find_images
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outputs import Job, plan_jobs, unchecked_job
from gcis_runtime.serve.engines import Engines
from gcis_runtime.serve.job import JobProgress, JobRecord
from gcis_runtime.serve.results import CASE


class CancelledJobError(Exception):
    """A job was cancelled. Raised between two windows, it leaves the engine usable."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Follower:
    """Functions that follow a job. Both raise `CancelledJobError` once the job is cancelled.

    Attributes:
        on_progress: Called with the progress.
        on_forecast: Called with the forecast.
    """

    on_progress: Callable[[JobProgress], None]
    on_forecast: Callable[[Forecast], None]


class Room:
    """Lets two jobs overlap (one computes while the other is read or written), or one job run alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting = 0

    @contextmanager
    def entered(self, *, alone: bool) -> Iterator[bool]:
        """Enter, after all others have left if `alone`; yields whether nobody else was inside."""
        with self._changed:
            if alone:
                self._waiting += 1
                self._changed.wait_for(lambda: self._inside == 0)
                self._waiting -= 1
                self._inside = -1
            else:
                self._changed.wait_for(lambda: self._inside >= 0 and not self._waiting)
                self._inside += 1
            first = self._inside in (-1, 1)
        try:
            yield first
        finally:
            with self._changed:
                self._inside = 0 if alone else self._inside - 1
                self._changed.notify_all()


def options_of(record: JobRecord, folder: Path) -> RunOptions:
    """Return the options of a job with the files that were sent with it."""
    return record.request.run_options(
        roi=None if record.roi is None else folder / record.roi,
        truth=None if record.truth is None else folder / record.truth,
    )


def find_source(image: Path, options: RunOptions) -> Source:
    """Return the only image of a path.

    Raises:
        ImageError: The path does not exist, or names no image or several.
    """
    if not image.exists():
        raise ImageError(f"{image} does not exist", expected="an image file, or a DICOM folder or archive")
    if not image.is_dir() and image.suffix.lower() == ".csv":
        raise ImageError(f"{image} is a list", expected="one image per job", fix="Submit each image.")
    if image.suffix.lower() == ".zip" or image.is_dir() or not suffix_of(image):
        from gcis_runtime.images.dicom_content import holds_dicom  # noqa: PLC0415 (only here)

        if not holds_dicom(image):
            raise ImageError(
                f"{image} contains no DICOM",
                expected="NIfTI, NRRD, MetaImage, or DICOM files in a folder or a zip archive",
                fix="Send one image per job.",
            )
    sources = find_images([image], options.dicom)
    if len(sources) != 1:
        raise ImageError(
            f"{image} contains several images",
            received=f"{len(sources)} images",
            expected="one image per job",
            fix="Submit each of them as a job.",
        )
    return replace(sources[0], name=CASE)


def outputs_of(results: Path) -> Job:
    """Return the paths of all results that a job can have."""
    return unchecked_job(Source(image=results / CASE, name=CASE), results, LABEL_FORMATS)


def run_job(record: JobRecord, folder: Path, results: Path, engines: Engines, follower: Follower) -> Report:
    """Run a job and write its results.

    Args:
        record: The job.
        folder: Folder of the job.
        results: Folder of the results.
        engines: The opened bundles.
        follower: Functions that follow the job.

    Raises:
        CancelledJobError: The job was cancelled.
        Exception: The job failed.
    """
    options = options_of(record, folder)
    follower.on_progress(JobProgress(stage="reading"))
    source = find_source(folder / record.source, options)
    (job,) = plan_jobs([source], f"{results}/", formats=record.request.format)
    with engines.turn:
        segmenter = engines.segmenter(record.bundle, record.request.prompt)
        options = engines.with_coarse(options, segmenter)
    case = read_case(segmenter, job, options)
    follower.on_progress(JobProgress(stage="waiting"))
    callbacks = Callbacks(
        on_progress=lambda windows, total: follower.on_progress(
            JobProgress(stage="computing", windows=windows, total=total)
        ),
        on_forecast=follower.on_forecast,
    )
    with engines.turn:
        # The engine may have been replaced while this job waited for its turn.
        segmenter = engines.segmenter(record.bundle, record.request.prompt)
        options = engines.with_coarse(options, segmenter)
        follower.on_progress(JobProgress(stage="computing"))
        result = segment_case(segmenter, case, options, callbacks)
    follower.on_progress(JobProgress(stage="writing"))
    return write_case(case, result, options)
