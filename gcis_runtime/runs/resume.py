"""Find the images that an earlier run finished: their report, which is written last, has the same run key."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import UNSET

from gcis_runtime.dicom.options import DicomOptions
from gcis_runtime.dicom.series import Series
from gcis_runtime.images.other_file import file_stamp
from gcis_runtime.pipeline.identity import BundleIdentity, Identity
from gcis_runtime.pipeline.options import SegmentOptions
from gcis_runtime.pipeline.report import REPORT_VERSION, FileStamp, Report, RunKey
from gcis_runtime.pipeline.segmenter import Segmenter
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outputs import Job
from gcis_runtime.system.records import read_record


def identity_of(segmenter: Segmenter, options: SegmentOptions) -> Identity:
    """Return the identity of a segmenter together with that of its coarse pass."""
    other = options.coarse_segmenter
    return replace(segmenter.identity, coarse=None if other is None else BundleIdentity.of(other.bundle))


def run_key(identity: Identity, image: Path, options: RunOptions, series: Series | None = None) -> RunKey:
    """Return everything that the results of an image depend on.

    The file is identified by size and modification time; a missing one has neither. A DICOM series is
    identified by its UID, the total size of its files and the latest modification.
    """
    segment, coarse = options.segment, identity.coarse
    limits: dict[str, Any] = {
        "max_memory": segment.max_memory,
        "tf32": identity.tf32 or None,
        "roi": _roi_key(segment.roi),
        "coarse": segment.coarse_factor if coarse is None else coarse.sha256,
        "body_crop": _crop_key(identity, segment),
        "raw": (segment.raw and any(label.post for label in identity.labels)) or None,
        "straighten": segment.straighten or None,
        "series": None if series is None else series.uid,
        "dicom_output": _dicom_key(series, options.dicom),
        "irregular": (series is not None and options.dicom.allow_irregular) or None,
    }
    return RunKey(
        bundle=identity.bundle.sha256,
        structures=[label.value for label in identity.labels],
        engine=identity.engine.name,
        precision=identity.engine.precision,
        restore=segment.restore,
        image=_stamp(image, series),
        **{name: value for name, value in limits.items() if value is not None},
    )


def _dicom_key(series: Series | None, options: DicomOptions) -> tuple[str, str] | None:
    default = options.seg_type == DicomOptions().seg_type and options.uid_root is None
    return None if series is None or default else (options.seg_type, options.uid_root or "")


def _stamp(image: Path, series: Series | None) -> FileStamp:
    try:
        if series is None:
            size, modified = file_stamp(image)
            return FileStamp(bytes=size, modified_ns=modified)
        changed = max(file.path.stat().st_mtime_ns for file in series.files)
        return FileStamp(bytes=sum(file.size for file in series.files), modified_ns=changed)
    except OSError:
        return FileStamp()


def _crop_key(identity: Identity, options: SegmentOptions) -> bool | None:
    """Return the crop option if it differs from the default, which follows the foreground rules."""
    if options.body_crop is True and not identity.bundle.crop:
        return True
    coarse = identity.coarse is not None and identity.coarse.crop
    return False if options.body_crop is False and (identity.bundle.crop or coarse) else None


def _roi_key(roi: str | os.PathLike[str] | None) -> str | tuple[str, int, int] | None:
    """Return what a region depends on: its text, and for a mask also its size and modification time."""
    if roi is None:
        return None
    text = os.fspath(roi)
    try:
        return text, *file_stamp(Path(text))
    except OSError:
        return text


def finished_report(identity: Identity, job: Job, options: RunOptions) -> Report | None:
    """Return the report of an earlier run with the same results, or None.

    All outputs that `options` request must exist. An image that changed or vanished counts as another image.

    Raises:
        OutputError: A newer gCIS wrote the report; `--resume` would replace its results.
    """
    report = read_record(job.report, Report, newest=REPORT_VERSION).value
    if report is None:
        return None
    key = run_key(identity, job.image, options, job.series)
    if key.image == FileStamp() or report.key != key:
        return None
    if options.truth is not None and report.truth != str(options.truth):
        return None
    needed = [path for _, path in job.formats]
    if options.dicom.sr and job.series is not None and job.measurements is not None:
        needed.append(job.measurements)
    segment = options.segment
    for wanted, maps, folder in (
        (segment.masks, report.masks, job.masks),
        (segment.probabilities, report.probability, job.probabilities),
    ):
        if wanted:
            if not isinstance(maps, dict) or not maps:
                return None
            needed += [folder / Path(file).name for file in maps.values()]
    for wanted, name, file in (
        (options.statistics, report.statistics, job.statistics),
        (options.preview, report.preview, job.preview),
        (options.report_html, report.report_html, job.page),
    ):
        if wanted:
            if name is UNSET:
                return None
            needed.append(file)
    return report if all(path.is_file() for path in needed) else None
