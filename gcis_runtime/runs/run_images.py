"""Segment image files as `gcis-run` does: `run_images` for files, `run_phantom` for a generated phantom."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from gcis_runtime.bundles.bundle import Bundle, open_bundle, select_labels
from gcis_runtime.bundles.store import DEMO, find_bundle
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import OutputError
from gcis_runtime.images.files import read_volume
from gcis_runtime.pages.renderer import check_renderer
from gcis_runtime.pipeline.identity import Identity
from gcis_runtime.pipeline.report import Report
from gcis_runtime.regions.roi import parse_roi
from gcis_runtime.runs.callbacks import RunCallbacks, RunStart
from gcis_runtime.runs.cohort import LocalExecutor
from gcis_runtime.runs.executor import Executor, Model, OpenExecutor
from gcis_runtime.runs.inputs import Source, find_images, is_collection
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outcome import RunResult
from gcis_runtime.runs.outputs import Job, clear_leftovers, is_file_name, plan_jobs
from gcis_runtime.runs.phantom import IMAGE_FILE, TRUTH_FILE, write_phantom
from gcis_runtime.runs.resume import finished_report
from gcis_runtime.runs.shard import Shard
from gcis_runtime.runs.summary import Recorder, Summary, refuse_own, shard_summary
from gcis_runtime.runs.summary_page import SummaryPage
from gcis_runtime.system.folder_lock import folder_lock

PathLike = str | os.PathLike[str]
BundleLike = PathLike | Bundle


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Cases and the folder of their summary; None for a single image without one."""

    jobs: list[Job]
    folder: Path | None = None
    resume: bool = False
    shard: Shard | None = None
    all_jobs: Sequence[Job] = ()


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A bundle that is not open yet, its structures to segment, and the engine."""

    bundle: BundleLike | None
    prompts: Sequence[str]
    engine: EngineOptions

    def opened(self) -> Model:
        """Find and verify the bundle."""
        bundle = self.bundle
        if not isinstance(bundle, Bundle):
            bundle = open_bundle(find_bundle(bundle, self.prompts))
        select_labels(bundle.manifest, self.prompts)  # an error before an engine is opened
        return Model(bundle=bundle, prompts=self.prompts, engine=self.engine)


def run_images(
    images: PathLike | Sequence[PathLike],
    *,
    bundle: BundleLike | None = None,
    prompts: Sequence[str] = (),
    engine: EngineOptions | None = None,
    options: RunOptions | None = None,
    out: PathLike | None = None,
    suffix: str | None = None,
    formats: Sequence[str] = (),
    resume: bool = False,
    shard: Shard | None = None,
    callbacks: RunCallbacks | None = None,
    executor: Executor | None = None,
) -> RunResult:
    """Segment image files and write label maps, reports and, for several images, a summary.

    An image that fails does not stop the others. The output folder of several images is locked during the
    run.

    Args:
        images: Image files, folders, patterns, lists (`.csv`) and DICOM studies; see
            `runs.inputs.find_images`.
        bundle: A bundle, its folder, its name in the store, `"demo"`, or None for the bundle in the store
            that has `prompts` (the only bundle if `prompts` is empty).
        prompts: Structures to segment; all of the bundle's if empty.
        engine: The engine.
        options: What to compute and write for each image.
        out: Output folder; for a single image also the file of its label map. None writes next to the image.
        suffix: Suffix of label maps in folders, such as `".nii.gz"`; None for the default of the image's
            format.
        formats: Formats of the labels, instead of `suffix`; see `runs.outputs.plan_jobs`.
        resume: Skip images that an earlier run into `out` finished with the same options.
        shard: Segment only this part of the images. The parts may run at the same time into one folder, on
            one machine or several that share it; `merge_summaries` joins their summaries.
        callbacks: Functions that follow the run.
        executor: What computes the cases; None for this process.

    Returns:
        Reports and errors.

    Raises:
        OutputError: The outputs cannot be written, several images have no output folder, or another run
            writes into it.
        ImageError: A folder, pattern or list has no image, or the only image does not exist.
        BundleError: The bundle does not exist or is damaged.
        PromptError: The bundle does not have a prompt.
        EngineError: The engine cannot be opened.
    """
    options = options or RunOptions()
    paths = [Path(image) for image in ([images] if isinstance(images, str | os.PathLike) else images)]
    plan = _plan(
        paths, options, out=None if out is None else os.fspath(out),
        formats=tuple(formats) or ((suffix.lstrip("."),) if suffix else ()), resume=resume, shard=shard,
    )  # fmt: skip
    model = _Model(bundle=bundle, prompts=prompts, engine=engine or EngineOptions())
    return _run(plan, model, options, callbacks or RunCallbacks(), executor=executor)


def run_elsewhere(
    images: Sequence[Path],
    cohort: AbstractContextManager[OpenExecutor],
    *,
    options: RunOptions,
    out: str | None = None,
    formats: Sequence[str] = (),
    resume: bool = False,
    shard: Shard | None = None,
    callbacks: RunCallbacks,
) -> RunResult:
    """Segment images as `run_images` does, by an executor that finds the bundle itself.

    Args:
        images: See `run_images`.
        cohort: Opens the executor, once the outputs were checked.
        options: See `run_images`.
        out: See `run_images`.
        formats: See `run_images`.
        resume: See `run_images`.
        shard: See `run_images`.
        callbacks: See `run_images`.

    Raises:
        GcisError: As `run_images`.
    """
    plan = _plan(list(images), options, out=out, formats=formats, resume=resume, shard=shard)
    if options.report_html and plan.folder is not None:
        check_renderer()  # of the page of the run: those of its images are rendered elsewhere
    with ExitStack() as stack:
        if plan.folder is not None:
            stack.enter_context(folder_lock(plan.folder, part=plan.shard))
        opened = stack.enter_context(cohort)
        clear_leftovers(plan.jobs)
        return _execute(plan, opened, options, callbacks)


def run_phantom(
    seed: int,
    *,
    out: PathLike,
    bundle: BundleLike | None = DEMO,
    prompts: Sequence[str] = (),
    engine: EngineOptions | None = None,
    options: RunOptions | None = None,
    suffix: str | None = None,
    callbacks: RunCallbacks | None = None,
) -> RunResult:
    """Generate a head-and-neck phantom, segment it, and score the label map against the true one.

    Args:
        seed: Seed of the generator.
        out: Output folder; the phantom is also written there.
        bundle: See `run_images`.
        prompts: See `run_images`.
        engine: See `run_images`.
        options: See `run_images`; `truth` is set to the phantom's label map.
        suffix: See `run_images`.
        callbacks: See `run_images`.

    Raises:
        GcisError: As `run_images`.
    """
    source = Source(image=Path(out) / IMAGE_FILE, name=IMAGE_FILE.removesuffix(".nii.gz"))
    plan = _Plan(jobs=plan_jobs([source], os.fspath(out), suffix=suffix))
    model = _Model(bundle=bundle, prompts=prompts, engine=engine or EngineOptions())
    return _run(plan, model, options or RunOptions(), callbacks or RunCallbacks(), phantom=seed)


def _plan(
    paths: list[Path],
    options: RunOptions,
    *,
    out: str | None,
    formats: Sequence[str],
    resume: bool,
    shard: Shard | None,
) -> _Plan:
    """Return the cases of a run, after checking everything that does not need the bundle."""
    sources = find_images(paths, options.dicom)
    collection = resume or shard is not None or any(map(is_collection, paths))
    if collection and (out is None or is_file_name(out)):
        raise OutputError(
            "folders, patterns, lists, --resume and --shard need -o FOLDER",
            received=repr(out),
            expected="an output folder",
            fix="Name one with -o.",
        )
    if options.truth is not None and len(sources) != 1:
        raise OutputError(
            "--truth belongs to one image",
            received=f"{len(sources)} images",
            expected="one image",
            fix="Run gcis-run once per image, or evaluate label maps with gcis-train evaluate.",
        )
    jobs = plan_jobs(sources, out, formats=formats)
    if len(jobs) == 1 and not jobs[0].image.exists():
        read_volume(jobs[0].image)  # raises the error before a bundle is loaded
    folder = Path(out) if out is not None and (collection or len(jobs) > 1) else None
    if folder is not None:
        refuse_own(paths, folder)
    part = jobs if shard is None else shard.of(jobs)
    return _Plan(jobs=part, folder=folder, resume=resume, shard=shard, all_jobs=jobs)


def _run(
    plan: _Plan,
    model: _Model,
    options: RunOptions,
    callbacks: RunCallbacks,
    *,
    executor: Executor | None = None,
    phantom: int | None = None,
) -> RunResult:
    """Lock the folder, open the engine, and run every case that an earlier run did not finish."""
    if options.report_html:
        check_renderer()
    with ExitStack() as stack:
        if plan.folder is not None:
            stack.enter_context(folder_lock(plan.folder, part=plan.shard))
        opened = model.opened()
        if phantom is not None:
            options = replace(options, truth=plan.jobs[0].image.parent / TRUTH_FILE)
        if options.segment.roi is not None:
            parse_roi(options.segment.roi, opened.bundle.manifest)  # an error before an engine is opened
        cohort = stack.enter_context((executor or LocalExecutor()).open(opened, options, plan.jobs))
        clear_leftovers(plan.jobs)
        if phantom is not None:
            write_phantom(phantom, plan.jobs[0].image.parent)
        return _execute(plan, cohort, options, callbacks)


def _execute(plan: _Plan, cohort: OpenExecutor, options: RunOptions, callbacks: RunCallbacks) -> RunResult:
    """Run the cases, and record each outcome."""
    identity, summary = cohort.identity, None
    if plan.folder is not None:
        part = None if plan.shard is None else shard_summary(plan.shard, plan.all_jobs)
        summary = Summary(plan.folder, identity, plan.jobs, with_statistics=options.statistics, shard=part)
    if callbacks.on_start is not None:
        callbacks.on_start(RunStart(identity=identity, notes=cohort.notes, jobs=plan.jobs, summary=summary))
    skipped = _finished(plan, identity, options, summary)
    recorder = Recorder(summary, callbacks.on_done, several=len(plan.all_jobs or plan.jobs) > 1)
    todo = [job for job in plan.jobs if job.name not in skipped]
    with ExitStack() as stack:
        if summary is not None and options.report_html:
            stack.callback(SummaryPage(summary, plan.jobs).write)  # also after an interrupt
        cohort.run(todo, on_done=recorder.on_done, callbacks=callbacks)
    return recorder.result(plan.jobs, skipped)


def _finished(
    plan: _Plan, identity: Identity, options: RunOptions, summary: Summary | None
) -> dict[str, Report]:
    """Return the reports of cases that an earlier run finished, by case, and record them in the summary."""
    if not plan.resume or summary is None:
        return {}
    found = {}
    for job in plan.jobs:
        report = finished_report(identity, job, options)
        if report is not None:
            found[job.name] = report
            summary.finished(job, report, skipped=True, write=False)
    summary.write()
    return found
