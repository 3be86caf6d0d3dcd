"""Run one image: read, segment, score, write and report it. `cohort` runs many images in parallel steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from gcis_runtime.images.files import check_plausible, read_volume
from gcis_runtime.images.labels import LabelMap, read_labels
from gcis_runtime.images.suffixes import suffix_of
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.memory_limit import check_image
from gcis_runtime.pipeline.options import Callbacks
from gcis_runtime.pipeline.report import Report, RunKey, StructureReport
from gcis_runtime.pipeline.result import Segmentation
from gcis_runtime.pipeline.segmenter import Segmenter
from gcis_runtime.runs import statistics
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outputs import Job
from gcis_runtime.runs.resume import run_key
from gcis_runtime.runs.scores import dice_by_value
from gcis_runtime.system.json_files import write_json

_T = TypeVar("_T")


@dataclass(kw_only=True, eq=False)
class Case:
    """An image that was read.

    Attributes:
        job: Input and outputs.
        key: Everything that its results depend on.
        volume: The image.
        truth: The true label map, on the image's grid.
        seconds: Seconds per stage so far.
    """

    job: Job
    key: RunKey
    volume: Volume
    truth: LabelMap | None
    seconds: dict[str, float] = field(default_factory=dict)


def read_case(segmenter: Segmenter, job: Job, options: RunOptions) -> Case:
    """Read an image, and its true label map if there is one.

    Raises:
        ImageError: A file cannot be read, or the true label map is on a different grid.
        MemoryLimitError: The voxels alone need more memory than `options` permit.
    """
    check_plausible(job.image)
    check_image(job.image, options.segment.max_memory)
    seconds: dict[str, float] = {}
    # Before the file is read: a file that changes while it is read must not be recorded as segmented.
    key = run_key(segmenter, job.image, options)
    volume = _timed(seconds, "read", lambda: read_volume(job.image))
    truth = None
    if options.truth is not None:
        truth = read_labels(options.truth, like=volume)
    return Case(job=job, key=key, volume=volume, truth=truth, seconds=seconds)


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


def write_case(case: Case, result: Segmentation, options: RunOptions) -> Report:
    """Write the results of an image.

    The report is written last: if it exists, all other files are complete.

    Returns:
        The report, as written to the JSON file next to the label map.

    Raises:
        GcisError: An output failed; files written before stay complete.
    """
    job, seconds = case.job, case.seconds | result.seconds
    job.report.unlink(missing_ok=True)  # an older report must not describe the new label map
    _timed(seconds, "write", lambda: result.save(job.labels))
    base = result.report()
    structures = list(base.structures)
    extra = _write_maps(job, result, options, seconds)
    if options.statistics:
        structures = _timed(seconds, "statistics", lambda: _measured(structures, job, result))
        extra["statistics"] = str(job.statistics)
    if options.preview:
        from gcis_runtime.runs.preview import write_preview  # noqa: PLC0415 (imports Pillow)

        _timed(seconds, "preview", lambda: write_preview(job.preview, result))
        extra["preview"] = str(job.preview)
    if case.truth is not None:
        structures = _scored(structures, result, case.truth)
        extra["truth"] = str(options.truth)
    # The engine that finished: a fallback may have replaced the one that was open when the image was read.
    key = msgspec.structs.replace(case.key, engine=result.engine.name, precision=result.engine.precision)
    report = msgspec.structs.replace(
        base, case=job.name, image=str(job.image), labels=str(job.labels), structures=structures,
        seconds={name: round(value, 4) for name, value in seconds.items()}, key=key, **extra,
    )  # fmt: skip
    write_json(job.report, report)
    return report


def _write_maps(
    job: Job, result: Segmentation, options: RunOptions, seconds: dict[str, float]
) -> dict[str, Any]:
    """Write masks and probability maps, and return the report's fields that name the files."""
    suffix = suffix_of(job.labels)
    files: dict[str, Any] = {}
    if options.segment.masks:
        files["masks"] = _timed(seconds, "masks", lambda: result.save_masks(job.masks, suffix=suffix))
    if options.segment.probabilities:
        files["probability"] = _timed(
            seconds, "probability", lambda: result.save_probabilities(job.probabilities, suffix=suffix)
        )
    return files


def _measured(structures: list[StructureReport], job: Job, result: Segmentation) -> list[StructureReport]:
    """Measure every structure, write the CSV file, and return the structures with their measurements."""
    values = [structure.value for structure in result.structures]
    found = statistics.measure_structures(result.volume, result.labels, values)
    measured = [msgspec.structs.replace(s, statistics=found[s.value]) for s in structures]
    statistics.write_csv(job.statistics, [statistics.COLUMNS, *statistics.csv_rows(job.name, measured)])
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
