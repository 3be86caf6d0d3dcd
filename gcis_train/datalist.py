"""The datalist: which image, which label file, which prompt; rows that share an image become one case.

The published JSON form (`training` / `validation` lists of `image`, `label`, `prompt`) with an optional
`label_value`, so that one multi-label file serves many prompts. Paths are relative to the datalist.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec

from gcis_runtime.errors import DataError


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One (image, structure).

    Attributes:
        image: CT file.
        label: Label file on the image's grid.
        prompt: The structure, in words.
        label_value: Value of the structure in the label file; None means every value above zero.
    """

    image: str
    label: str
    prompt: str
    label_value: int | None = None


class Datalist(msgspec.Struct, frozen=True, kw_only=True):
    """Rows to train on and rows to validate on."""

    training: tuple[Row, ...]
    validation: tuple[Row, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A labelled structure of a case: where its mask is."""

    prompt: str
    label: Path
    label_value: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One image and the structures that were labelled on it; others are unknown, not absent."""

    image: Path
    targets: tuple[Target, ...]

    @property
    def name(self) -> str:
        """The image's file name without its extension, for messages and tables."""
        return self.image.name.removesuffix(".gz").removesuffix(".nii")


def read_datalist(path: Path) -> Datalist:
    """Read a datalist strictly.

    Raises:
        DataError: Missing, not JSON, a row with a wrong or missing field, or no training row.
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
    for name, rows in (("training", datalist.training), ("validation", datalist.validation)):
        for index, row in enumerate(rows):
            _check_row(row, where=f"{path}: {name}[{index}]", folder=path.parent)
    return datalist


def _check_row(row: Row, *, where: str, folder: Path) -> None:
    if not row.prompt.strip():
        raise DataError(f"{where} has an empty prompt", fix="Name the structure in words.")
    if row.label_value is not None and row.label_value < 1:
        raise DataError(
            f"{where} has an impossible label_value", received=str(row.label_value), expected="1 or more"
        )
    for field, name in (("image", row.image), ("label", row.label)):
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
        mine.append(Target(prompt=row.prompt, label=folder / row.label, label_value=row.label_value))
    return tuple(Case(image=folder / image, targets=tuple(t)) for image, t in targets.items())


def prompts_of(cases: tuple[Case, ...]) -> tuple[str, ...]:
    """Return the distinct prompts in order of first appearance."""
    return tuple(dict.fromkeys(t.prompt for case in cases for t in case.targets))
