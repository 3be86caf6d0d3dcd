"""Which cases an earlier run finished: their report says of what, and is written after everything else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gcis_runtime.runs.outputs import Job

if TYPE_CHECKING:
    from gcis_runtime.pipeline.segmenter import Segmenter
    from gcis_runtime.runs.case import RunOptions


def run_key(segmenter: Segmenter, image: Path, options: RunOptions) -> dict[str, Any]:
    """Return what an image's results depend on: bundle, structures, arithmetic, restoring, and the file.

    Options that are not used have no entry, so that reports of earlier versions stay good. The file is known
    by its size and the time of its last change; a missing one has neither.
    """
    labels = segmenter.bundle.manifest.labels
    try:
        found = image.stat()
        file = {"bytes": found.st_size, "modified_ns": found.st_mtime_ns}
    except OSError:
        file = {}
    coarse = options.coarse
    limits = {
        "max_memory": options.max_memory,
        "tf32": segmenter.tf32 or None,
        "roi": _roi_key(options.roi),
        "coarse": coarse.bundle.sha256 if isinstance(coarse, type(segmenter)) else coarse,
        "body_crop": _crop_key(segmenter, options),
    }
    return {
        "bundle": segmenter.bundle.sha256,
        "structures": [labels[channel].value for channel in segmenter.channels],
        "engine": segmenter.engine.name,
        "precision": segmenter.engine.precision,
        "restore": options.restore,
        "image": file,
        **{name: value for name, value in limits.items() if value is not None},
    }


def _crop_key(segmenter: Segmenter, options: RunOptions) -> bool | None:
    """Return what was asked for where it is not what is done unasked: foreground rules are followed."""
    passes = [s for s in (segmenter, options.coarse) if isinstance(s, type(segmenter))]
    rules = [s.bundle.manifest.preprocess.crop is not None for s in passes]
    if options.body_crop is True and not rules[0]:
        return True
    return False if options.body_crop is False and any(rules) else None


def _roi_key(roi: str | None) -> Any:
    """Return what a region depends on: its text, and a mask's file as it is now."""
    if roi is None:
        return None
    try:
        found = Path(roi).stat()
    except OSError:
        return roi
    return [roi, found.st_size, found.st_mtime_ns]


def finished_report(segmenter: Segmenter, job: Job, options: RunOptions) -> dict[str, Any] | None:
    """Return the report of an earlier run that made the same of the same image, or None.

    The outputs that are asked for now must be there. An image that changed or vanished is not the same.
    """
    try:
        report = msgspec.json.decode(job.report.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return None
    key = run_key(segmenter, job.image, options)
    if not key["image"] or report.get("key") != key:
        return None
    if options.truth is not None and report.get("truth") != str(options.truth):
        return None
    needed = [job.labels]
    for wanted, name, place in (
        (options.masks, "masks", job.masks),
        (options.probability, "probability", job.probabilities),
    ):
        if wanted:
            files = report.get(name)
            if not files:
                return None
            needed += [place / Path(file).name for file in files.values()]
    for wanted, name, file in (
        (options.statistics, "statistics", job.statistics),
        (options.preview, "preview", job.preview),
    ):
        if wanted and name not in report:
            return None
        needed += [file] if wanted else []
    return report if all(path.is_file() for path in needed) else None
