"""Where results go: file names of label maps, reports and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gcis_runtime.atomic import check_writable
from gcis_runtime.errors import OutputError

_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image and where its results go.

    Attributes:
        image: The CT file.
        labels: The label map, `.nii.gz` or `.nii`.
        report: The JSON file beside it.
        preview: The picture beside it.
        masks: The folder beside it for one file a structure.
    """

    image: Path
    labels: Path
    report: Path
    preview: Path
    masks: Path


def plan_jobs(images: Sequence[Path], out: str | None) -> list[Job]:
    """Decide every output's name before anything runs.

    Args:
        images: The CT files.
        out: None writes `NAME_seg.nii.gz` beside each image; a name that ends in `.nii` or `.nii.gz` is the
            label map of the only image; anything else is a folder.

    Raises:
        OutputError: A file name for several images, two images with one output, an output over its image,
            or a place that cannot be written.
    """
    to_file = out is not None and out.endswith(_SUFFIXES) and not Path(out).is_dir()
    if to_file and len(images) > 1:
        raise OutputError(
            "one output file for several images", received=str(out), expected="a folder", fix="Use -o DIR/."
        )
    jobs = []
    for image in images:
        if to_file:
            labels = Path(str(out))
        else:
            folder = image.parent if out is None else Path(out)
            labels = folder / f"{stem(image)}_seg.nii.gz"
        base = labels.parent / stem(labels)
        jobs.append(
            Job(
                image=image,
                labels=labels,
                report=Path(f"{base}.json"),
                preview=Path(f"{base}.png"),
                masks=Path(f"{base}_masks"),
            )
        )
    seen: dict[Path, Path] = {}
    sources = {image.resolve() for image in images}
    for job in jobs:
        target = job.labels.resolve()
        if target in sources:
            raise OutputError(f"{job.labels} would overwrite an image", fix="Choose another name with -o.")
        if target in seen:
            raise OutputError(
                f"{seen[target]} and {job.image} have the same output",
                received=str(job.labels),
                fix="Run them one by one with -o.",
            )
        seen[target] = job.image
        check_writable(job.labels)
    return jobs


def stem(path: Path) -> str:
    """Return a file's name without `.nii.gz` or `.nii`."""
    for suffix in _SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem
