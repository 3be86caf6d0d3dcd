"""Many images through one engine: the next is read and the last is written while one is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

from gcis_runtime.errors import GcisError
from gcis_runtime.pipeline.forecast import Forecast
from gcis_runtime.pipeline.result import Segmentation
from gcis_runtime.pipeline.segmenter import Progress, Segmenter
from gcis_runtime.runs.case import Case, RunOptions, read_case, segment_case, write_case
from gcis_runtime.runs.outputs import Job

EXPECTED = (GcisError, OSError, MemoryError)
"""What can go wrong with an image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """How a case ended: with a report or an error.

    Attributes:
        job: The case.
        report: Its report; None where it failed.
        error: Why it failed.
    """

    job: Job
    report: dict[str, Any] | None = None
    error: Exception | None = None


def run_cases(
    segmenter: Segmenter,
    jobs: Sequence[Job],
    options: RunOptions,
    *,
    done: Callable[[Outcome], None],
    progress: Callable[[Job], Progress | None] | None = None,
    on_forecast: Callable[[Job, Forecast], None] | None = None,
) -> None:
    """Run cases one after another; a failing one does not stop the others.

    One thread reads and one writes, both of them at most a case ahead and behind: three cases are in memory.
    With a limit of memory cases do not overlap: one is in memory.
    An interrupt (Ctrl-C) ends the case being computed; one being written is finished first.

    Args:
        segmenter: The open segmenter.
        jobs: Cases.
        options: What is wanted of each.
        done: Told how each ended, in order, in this thread.
        progress: Gives what is told of a case's windows.
        on_forecast: Told what a case will take, before it starts.

    Raises:
        Exception: An error that is no image's fault, when there is only one case; of several, each may fail.
    """
    with (
        ThreadPoolExecutor(1, thread_name_prefix="gcis-read") as reader,
        ThreadPoolExecutor(1, thread_name_prefix="gcis-write") as writer,
    ):
        line = _Line(segmenter, options, reader, writer, done)
        line.read(jobs[0] if jobs else None)
        try:
            for number, job in enumerate(jobs):
                line.run(
                    job,
                    following=jobs[number + 1] if number + 1 < len(jobs) else None,
                    catch=EXPECTED if len(jobs) == 1 else (Exception,),
                    progress=None if progress is None else progress(job),
                    on_forecast=None if on_forecast is None else partial(on_forecast, job),
                )
        finally:
            reader.shutdown(wait=False, cancel_futures=True)
            line.settle()


class _Line:
    """Three places: a case being read, one being computed, one being written."""

    def __init__(
        self,
        segmenter: Segmenter,
        options: RunOptions,
        reader: ThreadPoolExecutor,
        writer: ThreadPoolExecutor,
        done: Callable[[Outcome], None],
    ) -> None:
        self._segmenter, self._options, self._done = segmenter, options, done
        self._reader, self._writer = reader, writer
        self._ahead: Future[Case] | None = None
        self._behind: tuple[Job, Future[dict[str, Any]], tuple[type[Exception], ...]] | None = None
        self._untold: Exception | None = None

    def read(self, job: Job | None) -> None:
        """Begin to read a case, if there is one."""
        if job is not None:
            self._ahead = self._reader.submit(read_case, self._segmenter, job, self._options)

    def run(
        self,
        job: Job,
        *,
        following: Job | None,
        catch: tuple[type[Exception], ...],
        progress: Progress | None,
        on_forecast: Callable[[Forecast], None] | None,
    ) -> None:
        """Compute the case that was read, while the following one is read and the one before is written."""
        alone = self._options.max_memory is not None
        found: tuple[Case, Segmentation] | None = None
        try:
            found = self._compute(None if alone else following, progress, on_forecast)
        except catch as error:
            if error is self._untold:
                raise  # that is not this case's fault
            self.settle()
            self._done(Outcome(job=job, error=error))
        if found is not None:
            self.settle()
            self._behind = job, self._writer.submit(write_case, *found, self._options), catch
        if alone:
            found = None  # freed once it is written, before the next is read
            self.settle()
            self.read(following)

    def _compute(
        self,
        following: Job | None,
        progress: Progress | None,
        on_forecast: Callable[[Forecast], None] | None,
    ) -> tuple[Case, Segmentation]:
        """Take the case that was read; nothing here keeps it afterwards."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            raise RuntimeError("no case is being read")
        try:
            case = ahead.result()
        finally:
            self.read(following)
        step = partial(self._step, progress)
        found = segment_case(self._segmenter, case, self._options, progress=step, on_forecast=on_forecast)
        return case, found

    def _step(self, progress: Progress | None, finished: int, total: int) -> None:
        """Pass on a case's progress, and tell of the case before as soon as it is written."""
        if self._behind is not None and self._behind[1].done():
            try:
                self.settle()
            except Exception as error:
                self._untold = error
                raise
        if progress is not None:
            progress(finished, total)

    def settle(self) -> None:
        """Wait for the case that is being written, if there is one, and tell how it ended."""
        if self._behind is None:
            return
        job, future, catch = self._behind
        wait([future])  # an interrupt leaves the case to be settled at the end
        self._behind = None
        try:
            outcome = Outcome(job=job, report=future.result())
        except catch as error:
            outcome = Outcome(job=job, error=error)
        self._done(outcome)
