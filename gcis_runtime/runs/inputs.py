"""Find the images of a run: files, folders, patterns and lists."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gcis_runtime.dicom.options import DicomOptions
from gcis_runtime.dicom.series import Series
from gcis_runtime.errors import ImageError
from gcis_runtime.images.dicom_content import holds_dicom, is_dicom_file
from gcis_runtime.images.suffixes import READABLE, stem, suffix_of
from gcis_runtime.runs.image_list import read_list

_OURS = "_seg"
"""Suffix of the label maps that runs write next to images; folders and patterns exclude these files."""
_OUR_FOLDERS = (f"{_OURS}_masks", f"{_OURS}_probability")


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image and the name of its outputs.

    Attributes:
        image: The file; the folder, archive or first file of a DICOM study.
        name: First part of the names of the outputs.
        series: The DICOM series; None for an image file.
    """

    image: Path
    name: str
    series: Series | None = None


def is_collection(argument: Path) -> bool:
    """Return whether an argument may name several images: a folder without DICOM, a pattern or a list."""
    if argument.is_dir():
        return not _is_study(argument)
    return _is_pattern(argument) or argument.suffix.lower() == ".csv"


def find_images(arguments: Sequence[Path], dicom: DicomOptions | None = None) -> tuple[Source, ...]:
    """Return the images that the arguments name, in their order; folders and patterns are sorted by name.

    Args:
        arguments: Image files (a missing one is an error when it is read); folders, without their subfolders;
            patterns with `*`, `?`, `[...]` and `**`; and lists (`.csv`) with a column `image`, relative to
            the list, and optionally a column `name`. A folder or zip archive that contains DICOM is a study;
            DICOM files are one study together.
        dicom: How series of studies are chosen; None for the defaults.

    Raises:
        ImageError: A folder or pattern has no image, a list cannot be read, or no series or several series of
            a study match `dicom`.
    """
    dicom = dicom or DicomOptions()
    found: list[Source] = []
    loose = [argument for argument in arguments if _is_loose(argument)]
    for argument in arguments:
        if argument in loose:
            if argument == loose[0]:
                found += _study(loose, dicom)
        elif _is_study(argument):
            found += _study([argument], dicom, keep_headers=len(arguments) == 1 and not dicom.every)
        elif argument.is_dir():
            found += _all(sorted(argument.iterdir()), f"{argument} contains no image")
        elif _is_pattern(argument):
            matches = sorted(Path(name) for name in glob.glob(str(argument), recursive=True))  # noqa: PTH207
            studies = [match for match in matches if _is_study(match)]
            files = [match for match in matches if match not in studies]
            if files or not studies:
                found += _all(files, f"no image matches {argument}")
            for study in studies:
                found += _study([study], dicom)
        elif argument.suffix.lower() == ".csv":
            found += _listed(argument, dicom)
        else:
            found.append(Source(image=argument, name=stem(argument)))
    return tuple(found)


def _is_study(path: Path) -> bool:
    """Return whether a path is a folder or zip archive that contains DICOM, and no image file at its top."""
    if path.is_dir():
        return not any(suffix_of(file) for file in path.iterdir()) and holds_dicom(path)
    return path.suffix.lower() == ".zip" and holds_dicom(path)


def _is_loose(path: Path) -> bool:
    return not suffix_of(path) and path.suffix.lower() not in (".csv", ".zip") and is_dicom_file(path)


def _study(paths: Sequence[Path], dicom: DicomOptions, *, keep_headers: bool = False) -> list[Source]:
    """Return the chosen series of a study."""
    from gcis_runtime.dicom.study import find_series  # noqa: PLC0415 (imports pydicom)

    image = paths[0]
    series = find_series(paths, dicom, keep_headers=keep_headers)
    name = image.resolve().name if image.is_dir() else stem(image)
    numbers = [s.number or "x" for s in series]
    names = [
        name if len(series) == 1 else f"{name}_{number}" + (f"-{i + 1}" if numbers.count(number) > 1 else "")
        for i, number in enumerate(numbers)
    ]
    return [Source(image=image, name=n, series=s) for n, s in zip(names, series, strict=True)]


def _is_pattern(argument: Path) -> bool:
    return any(c in str(argument) for c in "*?[") and not argument.exists()


def _all(paths: Sequence[Path], message: str) -> list[Source]:
    """Return the images, without hidden files and label maps of earlier runs."""
    images = [
        path
        for path in paths
        if suffix_of(path)
        and not path.name.startswith(".")
        and not stem(path).endswith(_OURS)
        and not path.parent.name.endswith(_OUR_FOLDERS)
        # A broken link, such as a file that git-annex has not fetched, is an image that fails.
        and (path.is_file() or (path.is_symlink() and not path.exists()))
    ]
    if not images:
        raise ImageError(
            message,
            expected=f"files that end in {', '.join(READABLE)}, other than *{_OURS}",
            fix="DICOM files are recognised by their content, also in subfolders; there are none.",
        )
    return [Source(image=image, name=stem(image)) for image in images]


def _listed(path: Path, dicom: DicomOptions) -> list[Source]:
    """Return the images of a list, relative to it."""
    found: list[Source] = []
    for entry in read_list(path):
        image = path.parent / entry.image
        name = entry.name or stem(image)
        if name in {".", ".."} or "/" in name or "\\" in name:
            raise ImageError(
                f"{path} has a name in row {entry.row} that is not a file name",
                received=repr(name),
                fix="Use letters, digits, - and _.",
            )
        if not (_is_study(image) or _is_loose(image)):
            found.append(Source(image=image, name=name))
            continue
        series = _study([image], dicom)
        numbered = len(series) > 1
        found += [
            replace(s, name=f"{name}_{s.series.number if s.series else ''}" if numbered else name)
            for s in series
        ]
    return found
