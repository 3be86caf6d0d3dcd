"""Find the images of a run: files, folders, patterns and lists."""

from __future__ import annotations

import csv
import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gcis_runtime.errors import ImageError
from gcis_runtime.images.suffixes import READABLE, stem, suffix_of

_OURS = "_seg"
"""Suffix of the label maps that runs write next to images; folders and patterns exclude these files."""
_OUR_FOLDERS = (f"{_OURS}_masks", f"{_OURS}_probability")


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image and the name of its outputs.

    Attributes:
        image: The file.
        name: First part of the names of the outputs.
    """

    image: Path
    name: str


def is_collection(argument: Path) -> bool:
    """Return whether an argument may name several images: a folder, a pattern or a list."""
    return argument.is_dir() or _is_pattern(argument) or argument.suffix.lower() == ".csv"


def find_images(arguments: Sequence[Path]) -> tuple[Source, ...]:
    """Return the images that the arguments name, in their order; folders and patterns are sorted by name.

    Args:
        arguments: Image files (a missing one is an error when it is read); folders, without their subfolders;
            patterns with `*`, `?`, `[...]` and `**`; and lists (`.csv`) with a column `image`, relative to
            the list, and optionally a column `name`.

    Raises:
        ImageError: A folder or pattern has no image, or a list cannot be read.
    """
    found: list[Source] = []
    for argument in arguments:
        if argument.is_dir():
            found += _all(sorted(argument.iterdir()), f"{argument} contains no image")
        elif _is_pattern(argument):
            matches = sorted(Path(name) for name in glob.glob(str(argument), recursive=True))  # noqa: PTH207
            found += _all(matches, f"no image matches {argument}")
        elif argument.suffix.lower() == ".csv":
            found += _listed(argument)
        else:
            found.append(Source(image=argument, name=stem(argument)))
    return tuple(found)


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
            fix="Convert DICOM folders first: `dcm2niix -z y -o OUT FOLDER`.",
        )
    return [Source(image=image, name=stem(image)) for image in images]


def _listed(path: Path) -> list[Source]:
    """Read a list; columns other than `image` and `name` are ignored."""
    fix = "The first line names the columns: image, and optionally name."
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows, columns = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageError(
            f"{path} cannot be read", received=str(error), expected="a CSV file", fix=fix
        ) from error
    if "image" not in columns:
        raise ImageError(
            f"{path} has no column 'image'", received=", ".join(columns) or "an empty file", fix=fix
        )
    sources = list(_sources(path, rows))
    if not sources:
        raise ImageError(f"{path} lists no image", fix=fix)
    return sources


def _sources(path: Path, rows: Sequence[dict[str, str | None]]) -> Iterator[Source]:
    for number, row in enumerate(rows, start=1):
        text = (row["image"] or "").strip()
        if not text:
            raise ImageError(f"{path} has no image in row {number}", fix="Remove the row, or name a file.")
        image = path.parent / text
        name = (row.get("name") or "").strip() or stem(image)
        if name in {".", ".."} or "/" in name or "\\" in name:
            raise ImageError(
                f"{path} has a name in row {number} that is not a file name",
                received=repr(name),
                fix="Use letters, digits, - and _.",
            )
        yield Source(image=image, name=name)
