"""Run one image: read, segment, score, write and report it. `cohort` runs many images in parallel steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.images.labels import LabelMap, read_labels
from gcis_runtime.images.suffixes import suffix_of
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.options import Callbacks
from gcis_runtime.pipeline.report import Report, RunKey
from gcis_runtime.pipeline.report_parts import DicomReport, StructureReport
from gcis_runtime.pipeline.result import Segmentation
from gcis_runtime.pipeline.segmenter import Segmenter
from gcis_runtime.runs import statistics
from gcis_runtime.runs.label_files import write_dicom_files, write_label_files
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outputs import Job
from gcis_runtime.runs.reading import check_input, read_input
from gcis_runtime.runs.resume import identity_of, run_key
from gcis_runtime.runs.scores import dice_by_value
from gcis_runtime.system.json_files import write_json

if TYPE_CHECKING:
    from gcis_runtime.dicom.load import SeriesImage

_T = TypeVar("_T")


@dataclass(kw_only=True, eq=False)
class Case:
    """An image that was read.

    Attributes:
        job: Input and outputs.
        key: Everything that its results depend on.
        manifest: Manifest of the bundle.
        volume: The image.
        truth: The true label map, on the image's grid.
        series: The DICOM series; None for an image file.
        seconds: Seconds per stage so far.
    """

    job: Job
    key: RunKey
    manifest: Manifest
    volume: Volume
    truth: LabelMap | None
    series: SeriesImage | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def read_case(segmenter: Segmenter, job: Job, options: RunOptions) -> Case:
    """Read an image, and its true label map if there is one.

    Raises:
        ImageError: A file cannot be read, or the true label map is on a different grid.
        MemoryLimitError: The voxels alone need more memory than `options` permit.
    """
    check_input(job, options)
    seconds: dict[str, float] = {}
    # Before the file is read: a file that changes while it is read must not be recorded as segmented.
    key = run_key(identity_of(segmenter, options.segment), job.image, options, job.series)
    volume, series = _timed(seconds, "read", lambda: read_input(job, options))
    truth = None
    if options.truth is not None:
        truth = read_labels(options.truth, like=volume)
    return Case(
        job=job, key=key, manifest=segmenter.bundle.manifest, volume=volume, truth=truth, series=series,
        seconds=seconds,
    )  # fmt: skip


def segment_case(segmenter: Segmenter, case: Case, options: RunOptions, callbacks: Callbacks) -> Segmentation:
    """Segment an image that was read.

    Raises:
        EngineError: The engine failed.
        MemoryLimitError: More memory than `options` permit is needed.
    """
    return segmenter.segment(
        case.volume,
        options=options.segment,
        progress=callbacks.on_progress,
        on_forecast=callbacks.on_forecast,
    )


def write_case(case: Case, result: Segmentation, options: RunOptions, *, keep_report: bool = False) -> Report:
    """Write the results of an image.

    The report is written last: if it exists, all other files are complete.

    Args:
        case: The image.
        result: Its segmentation.
        options: What to write.
        keep_report: Do not remove an existing report first: it describes the same results, because the caller
            removed those of earlier runs. Another process may have just written it.

    Returns:
        The report, as written to the JSON file next to the label map.

    Raises:
        GcisError: An output failed; files written before stay complete.
    """
    job, seconds = case.job, case.seconds | result.seconds
    if not keep_report:
        job.report.unlink(missing_ok=True)  # an older report must not describe the new label map
    _timed(seconds, "write", lambda: write_label_files(job, result))
    base = result.report()
    structures = list(base.structures)
    extra = _write_maps(job, result, options, seconds)
    if options.statistics or options.dicom.sr or options.report_html:
        structures = _timed(seconds, "statistics", lambda: _measured(structures, job, result, options))
        if options.statistics:
            extra["statistics"] = str(job.statistics)
    if options.preview:
        from gcis_runtime.pages.preview import write_preview  # noqa: PLC0415 (imports Pillow)

        _timed(seconds, "preview", lambda: write_preview(job.preview, result))
        extra["preview"] = str(job.preview)
    # The engine that finished: a fallback may have replaced the one that was open when the image was read.
    key = msgspec.structs.replace(case.key, engine=result.engine.name, precision=result.engine.precision)
    if (series := case.series) is not None:
        step = partial(_write_dicom, case, series, result, options, key=key, structures=structures)
        extra["dicom"], notes = _timed(seconds, "dicom", step)
        extra["warnings"] = [*base.warnings, *notes]
    if case.truth is not None:
        structures = _scored(structures, result, case.truth)
        extra["truth"] = str(options.truth)
    report = msgspec.structs.replace(
        base, case=job.name, image=str(job.image), labels=str(job.labels) if job.labels.exists() else "",
        structures=structures,
        seconds={name: round(value, 4) for name, value in seconds.items()}, key=key, **extra,
    )  # fmt: skip
    if options.report_html:
        report = _write_page(case, report, result)
    write_json(job.report, report)
    return report


def _write_page(case: Case, report: Report, result: Segmentation) -> Report:
    """Write the page of a case; return the report with its path, marks and seconds."""
    from gcis_runtime.pages.case import case_page  # noqa: PLC0415 (imports Pillow)
    from gcis_runtime.pages.renderer import write_page  # noqa: PLC0415

    seconds = dict(report.seconds)
    page = _timed(seconds, "report_html", lambda: case_page(report, result, case.manifest))
    write_page(case.job.page, page.text)
    return msgspec.structs.replace(
        report, report_html=str(case.job.page), marks=list(page.marks),
        seconds={name: round(value, 4) for name, value in seconds.items()},
    )  # fmt: skip


def _write_dicom(
    case: Case,
    found: SeriesImage,
    result: Segmentation,
    options: RunOptions,
    *,
    key: RunKey,
    structures: list[StructureReport],
) -> tuple[DicomReport, tuple[str, ...]]:
    """Write the DICOM files of a series; return their report, and notes."""
    files, notes = write_dicom_files(case.job, result, found, options, key=key, structures=structures)
    report = DicomReport(
        study=found.series.study_uid,
        series=found.series.uid,
        slices=len(found.stack.frames),
        tilt_degrees=round(found.stack.tilt, 2),
        interpolated=found.stack.depths is not None,
        files=files,
    )
    return report, notes


def _write_maps(
    job: Job, result: Segmentation, options: RunOptions, seconds: dict[str, float]
) -> dict[str, Any]:
    """Write masks and probability maps, and return the report's fields that name the files."""
    suffix = suffix_of(job.labels) or ".nii.gz"
    files: dict[str, Any] = {}
    if options.segment.masks:
        files["masks"] = _timed(seconds, "masks", lambda: result.save_masks(job.masks, suffix=suffix))
    if options.segment.probabilities:
        files["probability"] = _timed(
            seconds, "probability", lambda: result.save_probabilities(job.probabilities, suffix=suffix)
        )
    return files


def _measured(
    structures: list[StructureReport], job: Job, result: Segmentation, options: RunOptions
) -> list[StructureReport]:
    """Measure every structure, write the CSV file if requested, and return the measured structures."""
    values = [structure.value for structure in result.structures]
    found = statistics.measure_structures(result.volume, result.labels, values)
    measured = [msgspec.structs.replace(s, statistics=found[s.value]) for s in structures]
    if options.statistics:
        rows = statistics.csv_rows(job.name, measured, uids=job.uids)
        statistics.write_csv(job.statistics, [statistics.COLUMNS, *rows])
    return measured


def _scored(
    structures: list[StructureReport], result: Segmentation, truth: LabelMap
) -> list[StructureReport]:
    """Return the structures with their Dice."""
    scores = dice_by_value(result.labels, truth.array, [s.value for s in result.structures])
    rounded = {value: None if score is None else round(score, 4) for value, score in scores.items()}
    return [msgspec.structs.replace(s, dice=rounded[s.value]) for s in structures]


def _timed(seconds: dict[str, float], name: str, step: Callable[[], _T]) -> _T:
    """Run a step and store its seconds under `name`."""
    start = time.perf_counter()
    result = step()
    seconds[name] = time.perf_counter() - start
    return result
