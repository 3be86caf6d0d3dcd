"""Read datalists: rows of image, label file and prompt; rows with the same image form one case.

The format is the published JSON (lists `training` and `validation` of rows with `image`, `label`, `prompt`)
with an optional `label_value`, so that one multi-label file serves many prompts. `label_value` may be a list
(a liver and its tumours), and so may `label` (left and right in separate files). Paths are relative to the
datalist. As in the published program, rows may have further keys, a single task needs no prompts, and two
rows of the same image and prompt are two cases.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from gcis_runtime.errors import DataError
from gcis_runtime.images.labels import MAX_LABEL
from gcis_runtime.images.suffixes import stem
from gcis_runtime.system.json_files import decode_json
from gcis_train.data.placement import BY_FILE, LabelGeometry, Placement

MOST_REPEATS = 10_000
"""Limit of `repeat`, which multiplies the cases of an epoch in memory."""


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One structure of one image.

    Attributes:
        image: CT file.
        label: Label file on the grid of the image, or several; the structure is their union.
        prompt: Text prompt of the structure; empty in the file of a single task.
        label_value: Value of the structure in each label file, or several; None selects all values above
            zero. A value that does not occur in a label file states that the structure is absent.
        repeat: Number of times that the image counts per training epoch, for rare structures; of several rows
            of an image the largest.
        label_geometry: `file` requires each label file to have the grid of the image in its header; `image`
            requires the same shape only, and places its voxels on the grid of the image.
        label_flip: Axes of the file (such as `z` or `yz`) along which the voxels of the label files are
            reversed; only with the label geometry `image`.
    """

    image: str
    label: str | tuple[str, ...]
    prompt: str = ""
    label_value: int | tuple[int, ...] | None = None
    repeat: Annotated[int, msgspec.Meta(ge=1, le=MOST_REPEATS)] = 1
    label_geometry: LabelGeometry = "file"
    label_flip: str = ""

    def __post_init__(self) -> None:
        _ = self.placement

    @property
    def placement(self) -> Placement:
        """How the label files lie on the grid of the image."""
        return Placement(geometry=self.label_geometry, flip=self.label_flip)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label files."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def values(self) -> tuple[int, ...] | None:
        """The label values; None selects all values above zero."""
        return (self.label_value,) if isinstance(self.label_value, int) else self.label_value


class _Lists(msgspec.Struct, frozen=True, kw_only=True):
    training: tuple[Row, ...]
    validation: tuple[Row, ...] = ()


class Datalist(_Lists, frozen=True, kw_only=True, omit_defaults=True):
    """Rows for training and for validation, and notes on what was accepted but may be a mistake."""

    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A labelled structure of a case.

    Attributes:
        prompt: Text prompt of the structure.
        labels: Its label files; the mask is their union.
        values: Its values in each of them; None selects all values above zero.
        placement: How the label files lie on the grid of the image.
    """

    prompt: str
    labels: tuple[Path, ...]
    values: tuple[int, ...] | None
    placement: Placement = BY_FILE

    def select(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return the mask of the structure in an array of label values."""
        if self.values is None:
            return np.asarray(labels > 0)
        if len(self.values) == 1:
            return np.asarray(labels == self.values[0])
        return np.isin(labels, self.values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One image and its labelled structures; other structures are unknown, not absent.

    Attributes:
        image: CT file.
        targets: The labelled structures.
        title: Name of the image, needed where file names are not unique (`ct.nii.gz` in every folder).
        copy: Number of earlier cases of the same image and prompt.
        repeat: Number of times that the case counts per training epoch.
    """

    image: Path
    targets: tuple[Target, ...]
    title: str = ""
    copy: int = 0
    repeat: int = 1

    @property
    def image_name(self) -> str:
        """The title, or else the file name of the image without its suffix."""
        return self.title or stem(self.image)

    @property
    def name(self) -> str:
        """Name of the case for messages and tables: that of its image, and a number for copies."""
        return f"{self.image_name} ({self.copy + 1})" if self.copy else self.image_name


def read_datalist(path: Path, *, prompt: str = "") -> Datalist:
    """Read and validate a datalist.

    Args:
        path: The file.
        prompt: Prompt of rows without one, for a single task.

    Raises:
        DataError: The file is missing or not JSON, a row has a wrong or missing field, a file of a row does
            not exist, or the name of a list or field looks misspelt.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the datalist {path} cannot be read", received=error.strerror, expected="a JSON file"
        ) from error
    try:
        fields = decode_json(data, dict[str, Any])
        read = msgspec.convert(fields, _Lists)
    except msgspec.DecodeError as error:
        raise DataError(
            f"the datalist {path} is not in the published format",
            received=str(error),
            expected='{"training": [{"image", "label", "prompt", "label_value"?}, …], "validation": […]}',
        ) from error
    _check_names(fields, path)
    extra: Counter[str] = Counter()
    for name in _Lists.__struct_fields__:
        for index, row in enumerate(fields.get(name, ())):
            extra.update(_extra_keys(row, where=f"{path}: {name}[{index}]"))
    unnamed = sum(not row.prompt for row in (*read.training, *read.validation))
    lists = {}
    for name, entries in (("training", read.training), ("validation", read.validation)):
        lists[name] = tuple(r if r.prompt else msgspec.structs.replace(r, prompt=prompt) for r in entries)
        for index, entry in enumerate(lists[name]):
            _check_row(entry, where=f"{path}: {name}[{index}]", folder=path.parent)
    notes = [f"the key {key!r} of {count} rows is ignored" for key, count in extra.items()]
    if unnamed:
        notes.append(f"{unnamed} rows without a prompt are rows of {prompt!r}")
    return Datalist(
        training=lists["training"], validation=lists["validation"], notes=(*notes, *_notes_on_repeats(lists))
    )


def _extra_keys(row: Collection[str], *, where: str) -> list[str]:
    """Return the keys of a row that are not read; one that looks like a missing field is an error."""
    known = Row.__struct_fields__
    extra = [key for key in row if key not in known]
    for key in extra:
        meant = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.8)
        if meant and (meant[0] not in row or meant[0] == key.lower()):
            raise DataError(
                f"{where} has an unknown field",
                received=repr(key),
                expected=", ".join(known),
                fix=f"If {meant[0]} is meant, rename the field; otherwise give it a less similar name.",
            )
    return extra


def _notes_on_repeats(lists: dict[str, tuple[Row, ...]]) -> list[str]:
    notes = []
    for name, rows in lists.items():
        for (image, prompt), count in Counter((r.image, r.prompt) for r in rows).items():
            if count > 1:
                notes.append(f"{name} has {count} rows of {prompt!r} for {image}: each is a case of its own")
    if len(notes) > 3:
        notes = [*notes[:3], f"{len(notes) - 3} more structures have several rows"]
    return notes


def _check_names(names: Iterable[str], path: Path) -> None:
    """Raise an error for a misspelt list, which would be ignored; published datalists have further lists."""
    known = _Lists.__struct_fields__
    for name in set(names) - set(known):
        meant = [n for n in known if len(name) > 2 and n.startswith(name)]
        meant += difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if meant:
            raise DataError(
                f"the datalist {path} has an unknown list",
                received=repr(name),
                expected=" and ".join(known),
                fix=f"If {meant[0]} is meant, rename the list; otherwise give it a less similar name.",
            )


def _check_row(row: Row, *, where: str, folder: Path) -> None:
    if not row.prompt.strip():
        raise DataError(
            f"{where} has no prompt" if not row.prompt else f"{where} has an empty prompt",
            received=repr(row.prompt) if row.prompt else None,
            expected='"prompt": the structure in words',
            fix="Name the structure in the row, or with --prompt if all rows without one have the same.",
        )
    # A larger value occurs in no label map, and the structure would be absent from every image.
    if row.values is not None and not (row.values and min(row.values) >= 1 and max(row.values) <= MAX_LABEL):
        raise DataError(
            f"{where} has an invalid label_value",
            received=str(row.label_value),
            expected=f"whole numbers from 1 to {MAX_LABEL}",
        )
    if not row.labels:
        raise DataError(f"{where} has no label file", received="an empty list", expected="one or more")
    for field, name in (("image", row.image), *(("label", name) for name in row.labels)):
        if not (folder / name).is_file():
            raise DataError(
                f"{where} names a file that does not exist",
                received=f"{field} {name!r}",
                fix=f"Paths are relative to {folder}.",
            )


def group_cases(rows: tuple[Row, ...], *, folder: Path) -> tuple[Case, ...]:
    """Group rows by image, in order of first appearance; the second row of a prompt starts another case."""
    targets: dict[tuple[str, int], list[Target]] = {}
    repeats: dict[str, int] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for row in rows:
        repeats[row.image] = max(row.repeat, repeats.get(row.image, 1))
        number = seen[row.image, row.prompt]
        seen[row.image, row.prompt] += 1
        files = tuple(folder / name for name in row.labels)
        target = Target(prompt=row.prompt, labels=files, values=row.values, placement=row.placement)
        targets.setdefault((row.image, number), []).append(target)
    images = list(dict.fromkeys(image for image, _ in targets))
    names = dict(zip(images, titles([folder / image for image in images]), strict=True))
    return tuple(
        Case(
            image=folder / image,
            targets=tuple(mine),
            title=names[image],
            copy=number,
            repeat=repeats[image],
        )
        for (image, number), mine in targets.items()
    )


def titles(images: Sequence[Path]) -> list[str]:
    """Return a name per image: its file name, with its folder where file names are not unique."""
    names = [stem(image) for image in images]
    twice = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{image.parent.name}/{name}" if name in twice else name
        for image, name in zip(images, names, strict=True)
    ]


def prompts_of(cases: tuple[Case, ...]) -> tuple[str, ...]:
    """Return the distinct prompts in order of first appearance."""
    return tuple(dict.fromkeys(t.prompt for case in cases for t in case.targets))
