"""One image after another through an open segmenter: read, segment, score, write, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gcis_runtime.labelling import DEFAULT_RESTORE, Restore
from gcis_runtime.metrics import check_same_grid, dice_by_value
from gcis_runtime.nifti import read_volume, write_labels, write_volume
from gcis_runtime.outputs import Job
from gcis_runtime.segmentation import write_report
from gcis_runtime.segmenter import Progress, Segmenter
from gcis_runtime.volume import Volume

_T = TypeVar("_T")


def run_job(
    segmenter: Segmenter,
    job: Job,
    *,
    truth: Path | None = None,
    preview: bool = False,
    masks: bool = False,
    restore: Restore = DEFAULT_RESTORE,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Segment one file and write its results.

    Args:
        segmenter: The open segmenter.
        job: Input and outputs.
        truth: A label map on the same grid; adds the Dice of each structure, by label value.
        preview: Write the picture too.
        masks: Write one binary file a structure too.
        restore: How labels come to the image's grid.
        progress: Told of every finished window.

    Returns:
        The report, as it stands in the JSON file beside the label map.

    Raises:
        GcisError: The image, the engine or an output failed; what was written before stays whole.
    """
    seconds: dict[str, float] = {}
    volume = _timed(seconds, "read", lambda: read_volume(job.image))
    reference = None
    if truth is not None:
        reference = read_volume(truth)
        check_same_grid(volume, reference, name=str(truth))
    result = segmenter.segment(volume, restore=restore, masks=masks, progress=progress)
    seconds |= result.seconds
    _timed(seconds, "write", lambda: result.save(job.labels))
    report: dict[str, Any] = {"image": str(job.image), "labels": str(job.labels)} | result.report()
    if masks:
        report["masks"] = _timed(seconds, "masks", lambda: result.save_masks(job.masks))
    if preview:
        from gcis_runtime.preview import write_preview  # noqa: PLC0415 (Pillow only when asked for)

        _timed(seconds, "preview", lambda: write_preview(job.preview, result))
        report["preview"] = str(job.preview)
    if reference is not None:
        scores = dice_by_value(result.labels, reference.array, [s.value for s in result.structures])
        for structure in report["structures"]:
            score = scores[structure["value"]]
            structure["dice"] = None if score is None else round(score, 4)
        report["truth"] = str(truth)
    report["seconds"] = {name: round(value, 4) for name, value in seconds.items()}
    write_report(job.report, report)
    return report


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
    from gcis_runtime.phantom import make_phantom  # noqa: PLC0415 (a generator that most runs do not need)

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
