"""The datalist: which image, which label file, which prompt; rows that share an image become one case.

The published JSON form (`training` / `validation` lists of `image`, `label`, `prompt`) with an optional
`label_value`, so that one multi-label file serves many prompts. A value may be a list (a liver and the
tumours in it), and so may a label (left and right in files of their own). Paths are relative to the datalist.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from gcis_runtime.errors import DataError


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One (image, structure).

    Attributes:
        image: CT file.
        label: Label file on the image's grid, or several: the structure is their union.
        prompt: The structure, in words.
        label_value: Value of the structure in each label file, or several; None means every value above
            zero.
    """

    image: str
    label: str | tuple[str, ...]
    prompt: str
    label_value: int | tuple[int, ...] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The label files."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def values(self) -> tuple[int, ...] | None:
        """The label values; None means every value above zero."""
        return (self.label_value,) if isinstance(self.label_value, int) else self.label_value


class Datalist(msgspec.Struct, frozen=True, kw_only=True):
    """Rows to train on and rows to validate on."""

    training: tuple[Row, ...]
    validation: tuple[Row, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A labelled structure of a case: where its mask is.

    Attributes:
        prompt: The structure, in words.
        labels: Its label files; the mask is their union.
        values: Its values in each of them; None means every value above zero.
    """

    prompt: str
    labels: tuple[Path, ...]
    values: tuple[int, ...] | None

    def select(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return where an array of whole label values holds the structure."""
        if self.values is None:
            return np.asarray(labels > 0)
        if len(self.values) == 1:
            return np.asarray(labels == self.values[0])
        return np.isin(labels, self.values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One image and the structures that were labelled on it; others are unknown, not absent.

    Attributes:
        image: CT file.
        targets: The labelled structures.
        title: A name of its own, where the file's is another case's too (`ct.nii.gz` in every folder).
    """

    image: Path
    targets: tuple[Target, ...]
    title: str = ""

    @property
    def name(self) -> str:
        """The title, or the image's file name without its extension, for messages and tables."""
        return self.title or stem(self.image)


def read_datalist(path: Path) -> Datalist:
    """Read a datalist strictly.

    Raises:
        DataError: Missing, not JSON, a row with a wrong or missing field, no training row, or a list whose
            name is nearly one of ours.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"the datalist {path} cannot be read", received=error.strerror) from error
    try:
        datalist = msgspec.json.decode(data, type=Datalist)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"the datalist {path} is not in the published form",
            received=str(error),
            expected='{"training": [{"image", "label", "prompt", "label_value"?}, …], "validation": […]}',
        ) from error
    _check_names(msgspec.json.decode(data, type=dict[str, msgspec.Raw]), path)
    for name, rows in (("training", datalist.training), ("validation", datalist.validation)):
        for index, row in enumerate(rows):
            _check_row(row, where=f"{path}: {name}[{index}]", folder=path.parent)
    return datalist


def _check_names(names: Iterable[str], path: Path) -> None:
    """Refuse a misspelt list, which would be left out unseen; lists of other names are published too."""
    ours = Datalist.__struct_fields__
    for name in set(names) - set(ours):
        meant = [n for n in ours if len(name) > 2 and n.startswith(name)]
        meant += difflib.get_close_matches(name, ours, n=1, cutoff=0.8)
        if meant:
            raise DataError(
                f"the datalist {path} has a list that nothing reads",
                received=repr(name),
                expected=" and ".join(ours),
                fix=f"If it is meant to be {meant[0]}, call it so; else give it another name.",
            )


def _check_row(row: Row, *, where: str, folder: Path) -> None:
    if not row.prompt.strip():
        raise DataError(f"{where} has an empty prompt", fix="Name the structure in words.")
    if row.values is not None and (not row.values or min(row.values) < 1):
        raise DataError(
            f"{where} has an impossible label_value", received=str(row.label_value), expected="1 or more"
        )
    if not row.labels:
        raise DataError(f"{where} has no label file", expected="one or more")
    for field, name in (("image", row.image), *(("label", name) for name in row.labels)):
        if not (folder / name).is_file():
            raise DataError(
                f"{where} names a file that does not exist",
                received=f"{field} {name!r}",
                fix=f"Paths are relative to {folder}.",
            )


def group_cases(rows: tuple[Row, ...], *, folder: Path) -> tuple[Case, ...]:
    """Gather the rows of each image, in order of first appearance.

    Raises:
        DataError: The same prompt twice for one image.
    """
    targets: dict[str, list[Target]] = {}
    for row in rows:
        mine = targets.setdefault(row.image, [])
        if any(t.prompt == row.prompt for t in mine):
            raise DataError(
                "the datalist labels one structure twice",
                received=f"{row.prompt!r} for {row.image}",
                fix="Remove one of the two rows.",
            )
        files = tuple(folder / name for name in row.labels)
        mine.append(Target(prompt=row.prompt, labels=files, values=row.values))
    return tuple(
        Case(image=folder / image, targets=tuple(t), title=title)
        for (image, t), title in zip(targets.items(), titles([folder / i for i in targets]), strict=True)
    )


def titles(images: Sequence[Path]) -> list[str]:
    """Name each image by its file, and by its folder too where another image has that file name."""
    names = [stem(image) for image in images]
    twice = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{image.parent.name}/{name}" if name in twice else name
        for image, name in zip(images, names, strict=True)
    ]


def stem(path: Path) -> str:
    """Return a file's name without `.nii.gz` or its one extension."""
    return path.name.removesuffix(".nii.gz") if path.name.endswith(".nii.gz") else path.stem


def prompts_of(cases: tuple[Case, ...]) -> tuple[str, ...]:
    """Return the distinct prompts in order of first appearance."""
    return tuple(dict.fromkeys(t.prompt for case in cases for t in case.targets))
