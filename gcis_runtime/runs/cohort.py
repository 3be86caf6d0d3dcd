"""Run many images through one engine; while it computes, read the next image and write the previous one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.pipeline.identity import Identity
from gcis_runtime.pipeline.options import Callbacks, Progress
from gcis_runtime.pipeline.report import Report
from gcis_runtime.pipeline.result import Segmentation
from gcis_runtime.pipeline.segmenter import Segmenter
from gcis_runtime.regions.coarse import matching_labels
from gcis_runtime.runs.callbacks import RunCallbacks
from gcis_runtime.runs.case import Case, read_case, segment_case, write_case
from gcis_runtime.runs.executor import Model
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outcome import EXPECTED, Outcome
from gcis_runtime.runs.outputs import Job
from gcis_runtime.runs.resume import identity_of


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalCohort:
    """Runs cases in this process through one open engine; see `executor.OpenExecutor`.

    Attributes:
        segmenter: The open segmenter.
        options: What to compute and write for each case, with the segmenter of the coarse pass.
    """

    segmenter: Segmenter
    options: RunOptions

    @property
    def identity(self) -> Identity:
        """The bundle and the engine that compute."""
        return identity_of(self.segmenter, self.options.segment)

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages from opening the engine."""
        return self.segmenter.notes

    def run(
        self, jobs: Sequence[Job], *, on_done: Callable[[Outcome], None], callbacks: RunCallbacks
    ) -> None:
        """Run cases one after another; see `run_cases`."""
        run_cases(self.segmenter, jobs, self.options, on_done=on_done, callbacks=callbacks)


class LocalExecutor:
    """Computes in this process; see `executor.Executor`."""

    @contextmanager
    def open(self, model: Model, options: RunOptions, jobs: Sequence[Job] = ()) -> Iterator[LocalCohort]:
        """Open the engine, and that of the coarse pass."""
        with ExitStack() as stack:
            opened = Segmenter.open(model.bundle, options=model.engine, prompts=model.prompts)
            segmenter = stack.enter_context(opened)
            options = _with_coarse_segmenter(options, segmenter, model.engine, stack)
            yield LocalCohort(segmenter=segmenter, options=options)


def _with_coarse_segmenter(
    options: RunOptions, segmenter: Segmenter, engine: EngineOptions, stack: ExitStack
) -> RunOptions:
    """Open the bundle of the coarse pass for the structures that are segmented; `stack` closes it."""
    if options.coarse_bundle is None:
        return options
    bundle = open_bundle(find_bundle(options.coarse_bundle))
    labels = segmenter.bundle.manifest.labels
    others = matching_labels([labels[c] for c in segmenter.channels], bundle.manifest)
    coarse = Segmenter.open(bundle, options=engine, prompts=[label.prompt for label in others])
    stack.enter_context(coarse)
    return replace(options, segment=replace(options.segment, coarse=coarse))


def run_cases(
    segmenter: Segmenter,
    jobs: Sequence[Job],
    options: RunOptions,
    *,
    on_done: Callable[[Outcome], None],
    callbacks: RunCallbacks | None = None,
) -> None:
    """Run cases one after another; a case that fails does not stop the others.

    One thread reads and one writes, each at most one case ahead or behind: three cases are in memory. With a
    memory limit cases do not overlap: one is in memory. An interrupt (Ctrl-C) ends the case being computed;
    the case being written is finished first.

    Args:
        segmenter: The open segmenter.
        jobs: Cases.
        options: What to compute and write for each.
        on_done: Called with the outcome of each case, in order, in this thread.
        callbacks: Functions that follow the computation. `on_start` and `on_done` are not called here.

    Raises:
        Exception: With a single case, an error that is not in `EXPECTED`. With several, each case may fail
            with any exception.
    """
    callbacks = callbacks or RunCallbacks()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="gcis-read") as reader,
        ThreadPoolExecutor(1, thread_name_prefix="gcis-write") as writer,
    ):
        pipeline = _Pipeline(segmenter, options, reader, writer, on_done)
        pipeline.read(jobs[0] if jobs else None)
        try:
            for number, job in enumerate(jobs):
                pipeline.run(
                    job,
                    following=jobs[number + 1] if number + 1 < len(jobs) else None,
                    catch=EXPECTED if len(jobs) == 1 else (Exception,),
                    callbacks=callbacks.of(job),
                )
        finally:
            reader.shutdown(wait=False, cancel_futures=True)
            pipeline.settle()


class _Pipeline:
    """Three stages: one case is read, one computed, one written."""

    def __init__(
        self,
        segmenter: Segmenter,
        options: RunOptions,
        reader: ThreadPoolExecutor,
        writer: ThreadPoolExecutor,
        on_done: Callable[[Outcome], None],
    ) -> None:
        self._segmenter, self._options, self._on_done = segmenter, options, on_done
        self._reader, self._writer = reader, writer
        self._ahead: Future[Case] | None = None
        self._behind: tuple[Job, Future[Report], tuple[type[Exception], ...]] | None = None
        self._callback_error: Exception | None = None

    def read(self, job: Job | None) -> None:
        """Start to read a case, if there is one."""
        if job is not None:
            self._ahead = self._reader.submit(read_case, self._segmenter, job, self._options)

    def run(
        self,
        job: Job,
        *,
        following: Job | None,
        catch: tuple[type[Exception], ...],
        callbacks: Callbacks,
    ) -> None:
        """Compute the case that was read, while the next one is read and the previous one is written."""
        alone = self._options.segment.max_memory is not None
        found: tuple[Case, Segmentation] | None = None
        try:
            found = self._compute(None if alone else following, callbacks)
        except catch as error:
            if error is self._callback_error:
                raise  # it is not an error of this case
            self.settle()
            self._on_done(Outcome(job=job, error=error))
        if found is not None:
            self.settle()
            self._behind = job, self._writer.submit(write_case, *found, self._options), catch
        if alone:
            found = None  # freed once it is written, before the next case is read
            self.settle()
            self.read(following)

    def _compute(self, following: Job | None, callbacks: Callbacks) -> tuple[Case, Segmentation]:
        """Compute the case that was read. This object keeps no reference to it."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            raise RuntimeError("no case is being read")
        try:
            case = ahead.result()
        finally:
            self.read(following)
        followed = Callbacks(
            on_progress=partial(self._step, callbacks.on_progress), on_forecast=callbacks.on_forecast
        )
        return case, segment_case(self._segmenter, case, self._options, followed)

    def _step(self, progress: Progress | None, finished: int, total: int) -> None:
        """Forward the progress of a case, and report the previous case as soon as it is written."""
        if self._behind is not None and self._behind[1].done():
            try:
                self.settle()
            except Exception as error:
                self._callback_error = error
                raise
        if progress is not None:
            progress(finished, total)

    def settle(self) -> None:
        """Wait for the case that is being written, if there is one, and report its outcome."""
        if self._behind is None:
            return
        job, future, catch = self._behind
        wait([future])  # after an interrupt, the case is settled at the end
        self._behind = None
        try:
            outcome = Outcome(job=job, report=future.result())
        except catch as error:
            outcome = Outcome(job=job, error=error)
        self._on_done(outcome)
