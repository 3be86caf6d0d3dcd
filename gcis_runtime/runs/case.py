"""One image: read, segment, score, write, report. `cohort` runs many, these steps side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gcis_runtime.images.files import check_plausible, read_volume
from gcis_runtime.images.labels import LabelMap, read_labels
from gcis_runtime.images.nifti import write_labels, write_volume
from gcis_runtime.images.suffixes import suffix_of
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.forecast import Forecast, check_image
from gcis_runtime.pipeline.result import Segmentation, write_report
from gcis_runtime.pipeline.segmenter import Progress, Segmenter
from gcis_runtime.runs import statistics
from gcis_runtime.runs.outputs import Job
from gcis_runtime.runs.resume import run_key
from gcis_runtime.runs.scores import dice_by_value
from gcis_runtime.sliding.labeller import DEFAULT_RESTORE, Restore

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is wanted of every image.

    Attributes:
        restore: How labels come to the image's grid.
        masks: Write one binary file a structure.
        probability: Write the foreground probability of each structure.
        statistics: Measure HU and place of each structure.
        preview: Write a picture.
        roi: Only part of each image; see `Segmenter.segment`.
        coarse: A factor or another segmenter: only near what a coarse pass finds.
        body_crop: Crop to what is not air; see `Segmenter.segment`.
        max_memory: Most memory that the process may have resident, bytes; None: any.
        truth: A label map on the image's grid; adds the Dice of each structure, by label value.
    """

    restore: Restore = DEFAULT_RESTORE
    masks: bool = False
    probability: bool = False
    statistics: bool = False
    preview: bool = False
    roi: str | None = None
    coarse: float | Segmenter | None = None
    body_crop: bool | None = None
    max_memory: int | None = None
    truth: Path | None = None


@dataclass(kw_only=True, eq=False)
class Case:
    """An image that was read.

    Attributes:
        job: Input and outputs.
        key: What its results depend on; see `resume.run_key`.
        volume: The image.
        truth: The true label map, on the image's grid.
        seconds: Time of each stage so far.
    """

    job: Job
    key: dict[str, Any]
    volume: Volume
    truth: LabelMap | None
    seconds: dict[str, float] = field(default_factory=dict)


def read_case(segmenter: Segmenter, job: Job, options: RunOptions) -> Case:
    """Read an image, and its truth if there is one.

    Raises:
        ImageError: A file cannot be read, or the truth is on another grid.
        MemoryLimitError: Its voxels alone would take more memory than `options` allow.
    """
    check_plausible(job.image)
    check_image(job.image, options.max_memory)
    seconds: dict[str, float] = {}
    # Looked at before it is read: a file that changes meanwhile is not taken for the one that was segmented.
    key = run_key(segmenter, job.image, options)
    volume = _timed(seconds, "read", lambda: read_volume(job.image))
    truth = None
    if options.truth is not None:
        truth = read_labels(options.truth, like=volume)
    return Case(job=job, key=key, volume=volume, truth=truth, seconds=seconds)


def segment_case(
    segmenter: Segmenter,
    case: Case,
    options: RunOptions,
    *,
    progress: Progress | None = None,
    on_forecast: Callable[[Forecast], None] | None = None,
) -> Segmentation:
    """Segment an image that was read.

    Raises:
        EngineError: The engine failed.
        MemoryLimitError: It would take more memory than `options` allow.
    """
    return segmenter.segment(
        case.volume,
        restore=options.restore,
        masks=options.masks,
        probabilities=options.probability,
        roi=options.roi,
        coarse=options.coarse,
        body_crop=options.body_crop,
        max_memory=options.max_memory,
        progress=progress,
        on_forecast=on_forecast,
    )


def write_case(case: Case, result: Segmentation, options: RunOptions) -> dict[str, Any]:
    """Write an image's results. The report comes last: where it is, the others are whole.

    Returns:
        The report, as it stands in the JSON file beside the label map.

    Raises:
        GcisError: An output failed; what was written before stays whole.
    """
    job, seconds = case.job, case.seconds | result.seconds
    job.report.unlink(missing_ok=True)  # an older one must not vouch for the new label map
    _timed(seconds, "write", lambda: result.save(job.labels))
    report: dict[str, Any] = {"case": job.name, "image": str(job.image), "labels": str(job.labels)}
    report |= result.report()
    suffix = suffix_of(job.labels)
    if options.masks:
        report["masks"] = _timed(seconds, "masks", lambda: result.save_masks(job.masks, suffix=suffix))
    if options.probability:
        report["probability"] = _timed(
            seconds, "probability", lambda: result.save_probabilities(job.probabilities, suffix=suffix)
        )
    if options.statistics:
        _timed(seconds, "statistics", lambda: _add_statistics(report, job, result))
    if options.preview:
        from gcis_runtime.runs.preview import write_preview  # noqa: PLC0415 (Pillow only when asked for)

        _timed(seconds, "preview", lambda: write_preview(job.preview, result))
        report["preview"] = str(job.preview)
    if case.truth is not None:
        _add_dice(report, result, case.truth)
        report["truth"] = str(options.truth)
    report["seconds"] = {name: round(value, 4) for name, value in seconds.items()}
    # What computed in the end: a fall back may have changed it after the image was read.
    report["key"] = case.key | {"engine": result.engine.name, "precision": result.engine.precision}
    write_report(job.report, report)
    return report


def _add_statistics(report: dict[str, Any], job: Job, result: Segmentation) -> None:
    """Measure every structure, into the report and a CSV file."""
    values = [structure.value for structure in result.structures]
    found = statistics.measure_structures(result.volume, result.labels, values)
    for structure in report["structures"]:
        structure["statistics"] = asdict(found[structure["value"]])
    rows = statistics.csv_rows(job.name, report["structures"])
    statistics.write_csv(job.statistics, [statistics.COLUMNS, *rows])
    report["statistics"] = str(job.statistics)


def _add_dice(report: dict[str, Any], result: Segmentation, truth: LabelMap) -> None:
    scores = dice_by_value(result.labels, truth.array, [s.value for s in result.structures])
    for structure in report["structures"]:
        score = scores[structure["value"]]
        structure["dice"] = None if score is None else round(score, 4)


def write_phantom(seed: int, folder: Path) -> tuple[Path, Path]:
    """Write a generated head-and-neck phantom and its true label map.

    Args:
        seed: Which phantom.
        folder: Where `phantom_ct.nii.gz` and `phantom_truth.nii.gz` go.

    Returns:
        Paths of both files.

    Raises:
        OutputError: They cannot be written.
    """
    from gcis_runtime.demo.phantom import make_phantom  # noqa: PLC0415 (a generator that most runs do not need)

    phantom = make_phantom(seed)
    volume = Volume.from_array(phantom.ct, affine=phantom.affine)
    image, truth = folder / "phantom_ct.nii.gz", folder / "phantom_truth.nii.gz"
    write_volume(image, volume)
    write_labels(truth, phantom.labels, like=volume)
    return image, truth


def _timed(seconds: dict[str, float], name: str, step: Callable[[], _T]) -> _T:
    """Run a step and note its time under `name`."""
    start = time.perf_counter()
    result = step()
    seconds[name] = time.perf_counter() - start
    return result
