"""What an adaptor finds: samples with their structures, and what it left out and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from gcis_train.datasets.listing import Listing

Part = Literal["", "training", "validation", "test"]
"""Where a dataset itself puts a sample; empty where it does not say."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask:
    """A structure that a sample labels.

    Attributes:
        prompt: The structure in words.
        files: Label files; the mask is their union.
        values: Values in each file; None means every value above zero.
        lesion_of: The prompt of the organ that this lesion lies in; empty for anything else.
    """

    prompt: str
    files: tuple[Path, ...]
    values: tuple[int, ...] | None = None
    lesion_of: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One CT and its labels.

    Attributes:
        name: As the dataset calls it.
        image: CT file.
        masks: What is labelled on it.
        patient: Samples of one patient never come apart; the name where a patient has one sample.
        part: Where the dataset itself puts it.
    """

    name: str
    image: Path
    masks: tuple[Mask, ...]
    patient: str = ""
    part: Part = ""

    @property
    def group(self) -> str:
        """What a split keeps together."""
        return self.patient or self.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skip:
    """A case that was left out, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """What an adaptor found."""

    samples: tuple[Sample, ...]
    skipped: tuple[Skip, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """An adaptor.

    Attributes:
        kind: Its name on the command line.
        title: The dataset's own name.
        source: Where the layout and the labels are documented.
        layout: What the folder holds, for help and for errors.
        scan: From the folder's files to samples.
        aside: Patterns of files that the dataset publishes and that training does not use.
        absent_is_unknown: A structure without a voxel was not contoured, rather than not there.
    """

    kind: str
    title: str
    source: str
    layout: str
    scan: Callable[[Listing], Scan]
    aside: tuple[str, ...] = ()
    absent_is_unknown: bool = False


def label_map(
    file: Path, table: Mapping[int, str], lesions: Mapping[str, str] | None = None
) -> tuple[Mask, ...]:
    """Return the structures of one label map.

    Args:
        file: The label map.
        table: Prompt of each value.
        lesions: The organ's prompt for each prompt that is a lesion.
    """
    of = lesions or {}
    return tuple(
        Mask(prompt=prompt, files=(file,), values=(value,), lesion_of=of.get(prompt, ""))
        for value, prompt in table.items()
    )


def paired(
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    structures: Callable[[Path], tuple[Mask, ...]],
    *,
    name: str = "{}",
    part: Callable[[Path], Part] = lambda _image: "",
) -> Scan:
    """Return the scan of a dataset that has one image and one label map a case.

    Args:
        images: By key.
        labels: By key.
        structures: From a label map to its structures.
        name: A sample's name, with `{}` for the key.
        part: Where the dataset puts an image.
    """
    samples = tuple(
        Sample(name=name.format(key), image=image, masks=structures(labels[key]), part=part(image))
        for key, image in images.items()
        if key in labels
    )
    skipped = [Skip(name=name.format(k), reason="no label file") for k in images if k not in labels]
    skipped += [Skip(name=name.format(k), reason="no image file") for k in labels if k not in images]
    return Scan(samples=samples, skipped=tuple(skipped))
