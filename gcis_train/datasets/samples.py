"""Define the results of a dataset adaptor: samples with their structures, and skipped cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from gcis_train.data.placement import LabelGeometry
from gcis_train.datasets.listing import Listing

Part = Literal["", "training", "validation", "test"]
"""The published part of a sample; empty if the dataset has no published split."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask:
    """A labelled structure of a sample.

    Attributes:
        prompt: Text prompt of the structure.
        files: Label files; the mask is their union.
        values: Values in each file; None selects all values above zero.
        lesion_of: Prompt of the organ that contains this lesion; empty for other structures.
    """

    prompt: str
    files: tuple[Path, ...]
    values: tuple[int, ...] | None = None
    lesion_of: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One CT and its labels.

    Attributes:
        name: Name in the dataset.
        image: CT file.
        masks: Labelled structures.
        patient: Name of the patient, whose samples a split keeps together; empty if the patient has one
            sample.
        part: Published part of the sample.
    """

    name: str
    image: Path
    masks: tuple[Mask, ...]
    patient: str = ""
    part: Part = ""

    @property
    def group(self) -> str:
        """The name of the group of samples that a split keeps together."""
        return self.patient or self.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skip:
    """A skipped case with the reason."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """The result of an adaptor.

    Attributes:
        samples: Complete cases.
        skipped: Other cases with the reason.
        notes: What was accepted but may be a mistake, for the report.
    """

    samples: tuple[Sample, ...]
    skipped: tuple[Skip, ...] = ()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """An adaptor for a dataset.

    Attributes:
        kind: Name on the command line.
        title: Name of the dataset.
        source: URL of the documentation of layout and labels.
        layout: Expected contents of the folder, for help and errors.
        scan: Function from the files of the folder to samples.
        aside: Patterns of published files that training does not use.
        absent_is_unknown: Whether a structure without voxels was not contoured, rather than absent.
        broken: Reason by name of cases whose published files are known to be wrong; they are skipped unless
            they are kept explicitly.
        label_geometry: `image` if the headers of the published label files differ from those of the images.
    """

    kind: str
    title: str
    source: str
    layout: str
    scan: Callable[[Listing], Scan]
    aside: tuple[str, ...] = ()
    absent_is_unknown: bool = False
    broken: Mapping[str, str] = dataclasses.field(default_factory=dict)
    label_geometry: LabelGeometry = "file"


def label_map(
    file: Path, table: Mapping[int, str], lesions: Mapping[str, str] | None = None
) -> tuple[Mask, ...]:
    """Return the structures of one label map.

    Args:
        file: The label map.
        table: Prompt by label value.
        lesions: Prompt of the organ by prompt of the lesion.
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
    """Return the scan of a dataset with one image and one label map per case.

    Args:
        images: Images by key.
        labels: Label maps by key.
        structures: Function from a label map to its structures.
        name: Name of a sample, with `{}` for the key.
        part: Function from an image to its published part.
    """
    samples = tuple(
        Sample(name=name.format(key), image=image, masks=structures(labels[key]), part=part(image))
        for key, image in images.items()
        if key in labels
    )
    skipped = [Skip(name=name.format(k), reason="no label file") for k in images if k not in labels]
    skipped += [Skip(name=name.format(k), reason="no image file") for k in labels if k not in images]
    return Scan(samples=samples, skipped=tuple(skipped))
