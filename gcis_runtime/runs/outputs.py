"""Determine the output files: label maps, reports, pictures and tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gcis_runtime.dicom.results.files import check_installed
from gcis_runtime.dicom.series import Series
from gcis_runtime.errors import OutputError
from gcis_runtime.images.files import check_format
from gcis_runtime.images.suffixes import ITK, WRITABLE, stem, suffix_of
from gcis_runtime.platforms import name_key
from gcis_runtime.runs.inputs import Source
from gcis_runtime.system.atomic_files import remove_leftovers, unwritable
from gcis_runtime.system.rehearsal import check_name, check_writable

SEG: Final = "dicom-seg"
RTSTRUCT: Final = "rtstruct"
DICOM_FORMATS: Final = (SEG, RTSTRUCT)
_DICOM_SUFFIX = ".dcm"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image and its output files.

    Attributes:
        name: The case's name.
        image: The CT file; the folder, archive or first file of a DICOM study.
        labels: The label map.
        report: The JSON file next to it.
        preview: The picture next to it.
        page: The HTML page next to it.
        statistics: The CSV file next to it.
        masks: The folder next to it for one mask per structure.
        probabilities: The folder next to it for one probability map per structure.
        series: The DICOM series; None for an image file.
        formats: Format and path of every file with the labels, the first of which is `labels`.
        measurements: The DICOM report next to it.
    """

    name: str
    image: Path
    labels: Path
    report: Path
    preview: Path
    page: Path
    statistics: Path
    masks: Path
    probabilities: Path
    series: Series | None = None
    formats: tuple[tuple[str, Path], ...] = ()
    measurements: Path | None = None

    @property
    def uids(self) -> tuple[str, str]:
        """StudyInstanceUID and SeriesInstanceUID; empty for an image file."""
        return ("", "") if self.series is None else (self.series.study_uid, self.series.uid)


def is_file_name(out: str | None) -> bool:
    """Return whether `-o` names a label map; a folder exists or ends in a slash."""
    if out is None or out.endswith(("/", os.sep)):
        return False
    known = suffix_of(Path(out)) or out.lower().endswith(_DICOM_SUFFIX)
    return bool(known) and not Path(out).is_dir()


def plan_jobs(
    sources: Sequence[Source], out: str | None, *, suffix: str | None = None, formats: Sequence[str] = ()
) -> list[Job]:
    """Determine the name of every output before the run starts.

    Args:
        sources: The images.
        out: None writes `NAME_seg` next to each image; a name with an image's suffix is the label map of the
            only image; any other name is a folder.
        suffix: Suffix of label maps, masks and probability maps; None for `.nii.gz` for NIfTI, and the
            image's own format for NRRD and MetaImage.
        formats: Formats of the labels, instead of `suffix`: `nii.gz`, `nii`, `nrrd`, `mha`, and for DICOM
            series `dicom-seg` and `rtstruct`. The default of a DICOM series is `dicom-seg`.

    Raises:
        OutputError: One file name for several images, one output for two images, an output that would
            overwrite an image, a folder that cannot be written, a name that is not UTF-8, or a format that
            can only be read.
        ImageError: A format needs SimpleITK, which is not installed.
    """
    to_file = is_file_name(out)
    if to_file and len(sources) > 1:
        raise OutputError(
            "a single output file for several images",
            received=str(out),
            expected="a folder",
            fix="Use -o DIR/.",
        )
    wanted = tuple(dict.fromkeys(formats)) or ((suffix.lstrip("."),) if suffix else ())
    jobs = []
    for source in sources:
        if to_file:
            jobs.append(_job_of_file(source, Path(str(out)), wanted))
        else:
            folder = source.image.parent if out is None else Path(out)
            jobs.append(_job(source, folder / f"{source.name}_seg", wanted or _default_formats(source)))
    _refuse_names(jobs)
    _refuse_collisions(jobs)
    return jobs


def unchecked_job(source: Source, folder: Path, formats: Sequence[str]) -> Job:
    """Return a case whose outputs are in a folder, without checking that they can be written."""
    return _job(source, folder / f"{source.name}_seg", formats)


def clear_leftovers(jobs: Sequence[Job]) -> None:
    """Remove temporary files of killed runs in the folders of jobs; files of running processes stay."""
    for folder in {f for job in jobs for f in (job.labels.parent, job.masks, job.probabilities)}:
        remove_leftovers(folder)


def _default_formats(source: Source) -> tuple[str, ...]:
    """Return the default format of an image's labels."""
    if source.series is not None:
        return (SEG,)
    suffix = suffix_of(source.image)
    if suffix not in ITK:
        return (WRITABLE[0].lstrip("."),)
    return (suffix.lstrip(".") if suffix in WRITABLE else "mha",)


def _job_of_file(source: Source, labels: Path, wanted: tuple[str, ...]) -> Job:
    """Return the job whose label map is the file that the user named; its suffix determines the format."""
    base = labels.parent / stem(labels)
    if not suffix_of(labels):
        own = RTSTRUCT if wanted == (RTSTRUCT,) else SEG
    else:
        own = suffix_of(labels).lstrip(".")
    job = _job(source, base, (own, *(name for name in wanted if name != own)))
    return replace(job, labels=labels, formats=((own, labels), *job.formats[1:]))


def _job(source: Source, base: Path, formats: Sequence[str]) -> Job:
    files = tuple((name, _label_file(base, name)) for name in formats)
    return Job(
        name=source.name,
        image=source.image,
        labels=files[0][1],
        report=Path(f"{base}.json"),
        preview=Path(f"{base}.png"),
        page=_beside(base, "report.html"),
        statistics=Path(f"{base}_statistics.csv"),
        masks=Path(f"{base}_masks"),
        probabilities=Path(f"{base}_probability"),
        series=source.series,
        formats=files,
        measurements=_beside(base, f"sr{_DICOM_SUFFIX}"),
    )


def _label_file(base: Path, name: str) -> Path:
    if name == SEG:
        return Path(f"{base}{_DICOM_SUFFIX}")
    return _beside(base, f"{RTSTRUCT}{_DICOM_SUFFIX}") if name == RTSTRUCT else Path(f"{base}.{name}")


def _beside(base: Path, ending: str) -> Path:
    return base.with_name(f"{base.name.removesuffix('_seg')}_{ending}")


def _refuse_names(jobs: Sequence[Job]) -> None:
    """Raise an error for names that are not UTF-8: reports and tables cannot contain them."""
    for path in (path for job in jobs for path in (job.image, job.labels)):
        try:
            clean = str(path).encode() and "\0" not in str(path)
        except UnicodeEncodeError:
            clean = False
        if not clean:
            raise OutputError(
                "a name is not UTF-8, or holds a zero byte",
                received=ascii(str(path)),
                fix="Rename the file; reports and tables cannot contain this name.",
            )


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    """Raise an error for outputs that would overwrite a file or cannot be written."""
    seen: dict[str, Path] = {}
    rehearsed: dict[Path, int] = {}
    # Not `Path.resolve`, which raises RuntimeError for links in a circle before Python 3.13.
    sources = {os.path.realpath(job.image) for job in jobs}
    for job in jobs:
        if os.path.realpath(job.labels) in sources:
            raise OutputError(f"{job.labels} would overwrite an image", fix="Choose another name with -o.")
        target = name_key(os.path.realpath(job.report))  # one for all formats
        if target in seen:
            raise OutputError(
                f"{seen[target]} and {job.image} have the same output",
                received=str(job.labels),
                fix="Run them one by one with -o, or give them names in a list (.csv).",
            )
        seen[target] = job.image
        if job.series is None:
            check_format(job.image)
        longest = max(
            (job.labels, job.report, job.statistics, job.page, *(path for _, path in job.formats)),
            key=lambda path: len(os.fsencode(path.name)),
        )
        if len(os.fsencode(longest.name)) > rehearsed.get(longest.parent, 0):
            check_writable(job.labels, longest=longest)
            rehearsed[longest.parent] = len(os.fsencode(longest.name))
        for path in (job.report, *(path for _, path in job.formats)):
            check_name(path)
            if path.is_dir():
                raise unwritable(path, IsADirectoryError(0, "a folder has that name"))
        _check_formats(job)


def _check_formats(job: Job) -> None:
    """Raise an error unless this environment can write every format of a job."""
    for name, path in job.formats:
        if name not in DICOM_FORMATS:
            check_format(path, write=True)
        elif job.series is None:
            raise OutputError(
                f"{name} needs a DICOM series",
                received=str(job.image),
                fix="Pass the study folder, or write another --format.",
            )
        else:
            check_installed()
