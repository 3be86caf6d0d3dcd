"""Determine the output files: label maps, reports, pictures and tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gcis_runtime.errors import OutputError
from gcis_runtime.images.files import check_format
from gcis_runtime.images.suffixes import ITK, WRITABLE, stem, suffix_of
from gcis_runtime.platforms import name_key
from gcis_runtime.runs.inputs import Source
from gcis_runtime.system.atomic_files import remove_leftovers, unwritable
from gcis_runtime.system.rehearsal import check_name, check_writable


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image and its output files.

    Attributes:
        name: The case's name.
        image: The CT file.
        labels: The label map.
        report: The JSON file next to it.
        preview: The picture next to it.
        statistics: The CSV file next to it.
        masks: The folder next to it for one mask per structure.
        probabilities: The folder next to it for one probability map per structure.
    """

    name: str
    image: Path
    labels: Path
    report: Path
    preview: Path
    statistics: Path
    masks: Path
    probabilities: Path


def is_file_name(out: str | None) -> bool:
    """Return whether `-o` names a label map; a folder exists or ends in a slash."""
    if out is None or out.endswith(("/", os.sep)):
        return False
    return bool(suffix_of(Path(out))) and not Path(out).is_dir()


def plan_jobs(sources: Sequence[Source], out: str | None, *, suffix: str | None = None) -> list[Job]:
    """Determine the name of every output before the run starts.

    Args:
        sources: The images.
        out: None writes `NAME_seg` next to each image; a name with an image's suffix is the label map of the
            only image; any other name is a folder.
        suffix: Suffix of label maps, masks and probability maps; None for `.nii.gz` for NIfTI, and the
            image's own format for NRRD and MetaImage.

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
    jobs = []
    for source in sources:
        if to_file:
            labels = Path(str(out))
        else:
            folder = source.image.parent if out is None else Path(out)
            labels = folder / f"{source.name}_seg{suffix or _suffix_for(source.image)}"
        jobs.append(_job(source, labels))
    _refuse_names(jobs)
    _refuse_collisions(jobs)
    return jobs


def clear_leftovers(jobs: Sequence[Job]) -> None:
    """Remove temporary files of killed runs in the folders of jobs; files of running processes stay."""
    for folder in {f for job in jobs for f in (job.labels.parent, job.masks, job.probabilities)}:
        remove_leftovers(folder)


def _suffix_for(image: Path) -> str:
    """Return the default suffix of an image's label map."""
    suffix = suffix_of(image)
    if suffix not in ITK:
        return WRITABLE[0]
    return suffix if suffix in WRITABLE else ".mha"


def _job(source: Source, labels: Path) -> Job:
    base = labels.parent / stem(labels)
    return Job(
        name=source.name,
        image=source.image,
        labels=labels,
        report=Path(f"{base}.json"),
        preview=Path(f"{base}.png"),
        statistics=Path(f"{base}_statistics.csv"),
        masks=Path(f"{base}_masks"),
        probabilities=Path(f"{base}_probability"),
    )


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
        longest = max((job.labels, job.report, job.statistics), key=lambda path: len(os.fsencode(path.name)))
        if len(os.fsencode(longest.name)) > rehearsed.get(longest.parent, 0):
            check_writable(job.labels, longest=longest)
            rehearsed[longest.parent] = len(os.fsencode(longest.name))
        for path in (job.labels, job.report):
            check_name(path)
            if path.is_dir():
                raise unwritable(path, IsADirectoryError(0, "a folder has that name"))
        check_format(job.image)
        check_format(job.labels, write=True)
