"""Build a datalist from the folder of a dataset, with a report of used, skipped and unused files."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from gcis_runtime.errors import DataError
from gcis_runtime.images.labels import read_labels
from gcis_runtime.system.json_files import write_json
from gcis_train.data.datalist import Datalist, Row
from gcis_train.data.placement import Placement
from gcis_train.datasets.geometry import placed
from gcis_train.datasets.listing import Listing
from gcis_train.datasets.merges import lesions_in_organs, sides_joined
from gcis_train.datasets.samples import Dataset, Mask, Sample, Scan, Skip
from gcis_train.datasets.splits import fold_of, hold_out

DEFAULT_SHARE = 0.2


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a datalist.

    Attributes:
        lesions: Whether tumours and cysts are part of their organ; they have their own rows in both cases.
        sides: Whether left and right are separate structures or one.
        prompts: Prompts to include; empty includes all.
        empty: Whether structures without voxels get a row; `drop` reads every label file.
        seed: Seed of the split.
        folds: Number of folds; 0 disables cross-validation.
        fold: Fold used for validation, counted from 0.
        validation_share: Share of patients for validation; None uses the published split, or 0.2 without one.
        test: Validate on the published test part, which is excluded otherwise.
        keep: Keep cases whose published files are known to be wrong (`Dataset.broken`).
        label_flip: Axes along which the label files are reversed, for a dataset whose labels are placed by
            the header of the image.
    """

    lesions: Literal["organ", "apart"] = "organ"
    sides: Literal["apart", "joined"] = "apart"
    prompts: tuple[str, ...] = ()
    empty: Literal["keep", "drop"] = "keep"
    seed: int = 0
    folds: int = 0
    fold: int = 0
    validation_share: float | None = None
    test: bool = False
    keep: bool = False
    label_flip: str = ""

    def __post_init__(self) -> None:
        if self.folds and not (self.folds > 1 and 0 <= self.fold < self.folds):
            raise ValueError(f"fold {self.fold} of {self.folds} (folds are counted from 0, at least two)")
        if self.folds and self.validation_share is not None:
            raise ValueError("a validation share and folds")
        if self.validation_share is not None and not 0 <= self.validation_share < 1:
            raise ValueError(f"a validation share of {self.validation_share}")
        if self.test and (self.folds or self.validation_share is not None):
            raise ValueError("the published test part and another split")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """A datalist with its report.

    Attributes:
        datalist: The rows.
        report: JSON values: counts, split, skipped cases with reasons, unused files, published files that no
            datalist uses.
    """

    datalist: Datalist
    report: dict[str, Any]


def build(
    dataset: Dataset,
    root: Path,
    *,
    folder: Path,
    choices: Choices,
    progress: Callable[[str], None] = lambda _: None,
) -> Built:
    """Build the datalist of a dataset.

    Args:
        dataset: The adaptor.
        root: Folder of the dataset.
        folder: Folder of the datalist: files below it get relative paths, others absolute paths.
        choices: Merges and split.
        progress: Called with one line per case while label files are read.

    Raises:
        DataError: The folder is not that of the dataset or has no complete case, a prompt is unknown, or
            `label_flip` does not apply.
        ImageError: A label file, or with the label geometry `image` a header, cannot be read.
    """
    placement = _placement(dataset, choices)
    listing = Listing(root)
    scan = dataset.scan(listing)
    if not scan.samples:
        raise _nothing(dataset, listing, scan.skipped)
    samples, skipped = _select(dataset, scan, choices, progress)
    samples, unfit, moved = placed(samples, placement)
    skipped += unfit
    parts, how = _split(samples, choices)
    rows = {part: tuple(r for s in parts[part] for r in _rows(s, folder, placement)) for part in parts}
    used = {f for s in scan.samples for f in (s.image, *(f for m in s.masks for f in m.files))}
    report = {
        "dataset": dataset.title,
        "source": dataset.source,
        "choices": msgspec.to_builtins(choices),
        "split": how,
        "label_geometry": {"placed_by": placement.geometry, "headers_differ": moved},
        "cases": {part: len(found) for part, found in parts.items()},
        "rows": {part: len(found) for part, found in rows.items()},
        "structures": dict(Counter(r.prompt for p in ("training", "validation") for r in rows[p])),
        "skipped": [{"name": s.name, "reason": s.reason} for s in skipped],
        "notes": list(scan.notes),
        "unused_files": list(listing.unused(used, dataset.aside)),
        "set_aside": listing.set_aside(used, dataset.aside),
    }
    if not rows["training"] and not rows["validation"]:
        raise DataError(
            f"the datalist of {dataset.title} would be empty",
            received=", ".join(f"{part} {len(found)}" for part, found in parts.items()),
            fix="Check that the labels have voxels; if all cases are in the test part, use --test.",
        )
    return Built(datalist=Datalist(training=rows["training"], validation=rows["validation"]), report=report)


def _select(
    dataset: Dataset, scan: Scan, choices: Choices, progress: Callable[[str], None]
) -> tuple[list[Sample], list[Skip]]:
    """Return the merged samples with the chosen structures, and the skipped cases."""
    broken = {} if choices.keep else dataset.broken
    samples = [_merged(sample, choices) for sample in scan.samples if sample.name not in broken]
    skipped = list(scan.skipped)
    skipped += [Skip(name=s.name, reason=broken[s.name]) for s in scan.samples if s.name in broken]
    if choices.prompts:
        samples = _only(samples, choices.prompts)
        skipped += [Skip(name=s.name, reason="no requested structure") for s in samples if not s.masks]
        samples = [s for s in samples if s.masks]
    if choices.empty == "drop" or dataset.absent_is_unknown:
        samples = _without_empty(samples, progress)
        skipped += [Skip(name=s.name, reason="no voxel of any structure") for s in samples if not s.masks]
        samples = [s for s in samples if s.masks]
    return samples, skipped


def write_datalist(path: Path, built: Built) -> None:
    """Write the datalist, with dataset, source, options and split under `about`.

    Raises:
        OutputError: The file cannot be written.
    """
    about = {k: built.report[k] for k in ("dataset", "source", "choices", "split")}
    tree = {
        "about": about,
        "training": built.datalist.training,
        "validation": built.datalist.validation,
    }
    write_json(path, tree, indent=1)


def _placement(dataset: Dataset, choices: Choices) -> Placement:
    try:
        return Placement(geometry=dataset.label_geometry, flip=choices.label_flip)
    except ValueError as error:
        raise DataError(
            f"the labels of {dataset.title} cannot be reversed",
            received=str(error),
            expected="axes such as 'z', for a dataset whose labels are placed by the header of the image",
            fix="Correct or omit --label-flip.",
        ) from error


def _nothing(dataset: Dataset, listing: Listing, skipped: Sequence[Skip]) -> DataError:
    if skipped:
        first = skipped[0]
        return DataError(
            f"{listing.root} has no complete case of {dataset.title}",
            received=f"{len(skipped)} incomplete, such as {first.name}: {first.reason}",
            expected=dataset.layout,
            fix=f"The layout is documented at {dataset.source}.",
        )
    dicom = " It contains DICOM: convert each series with `dcm2niix -z y`." if listing.has_dicom() else ""
    return DataError(
        f"{listing.root} does not look like {dataset.title}",
        received=listing.contents(),
        expected=dataset.layout,
        fix=f"Pass the folder described at {dataset.source}.{dicom}",
    )


def _merged(sample: Sample, choices: Choices) -> Sample:
    masks = sample.masks
    if choices.lesions == "organ":
        masks = lesions_in_organs(masks)
    if choices.sides == "joined":
        masks = sides_joined(masks)
    return dataclasses.replace(sample, masks=masks)


def _only(samples: Sequence[Sample], prompts: Sequence[str]) -> list[Sample]:
    known = {m.prompt for s in samples for m in s.masks}
    unknown = [p for p in prompts if p not in known]
    if unknown:
        raise DataError(
            "the dataset has no such structure",
            received=", ".join(unknown),
            expected="of " + ", ".join(sorted(known)),
        )
    return [dataclasses.replace(s, masks=tuple(m for m in s.masks if m.prompt in prompts)) for s in samples]


def _without_empty(samples: Sequence[Sample], progress: Callable[[str], None]) -> list[Sample]:
    """Remove masks without voxels; each label file is read once."""

    @functools.lru_cache(maxsize=256)
    def values(file: Path) -> frozenset[int]:
        return frozenset(np.unique(read_labels(file).array).tolist())

    def has_voxels(mask: Mask) -> bool:
        found = frozenset[int]().union(*(values(file) for file in mask.files))
        return any(v > 0 for v in found) if mask.values is None else bool(found & set(mask.values))

    kept = []
    for number, sample in enumerate(samples, start=1):
        kept.append(dataclasses.replace(sample, masks=tuple(m for m in sample.masks if has_voxels(m))))
        progress(f"{number}/{len(samples)}  {sample.name}  {len(kept[-1].masks)} structures")
    return kept


def _split(samples: Sequence[Sample], choices: Choices) -> tuple[dict[str, list[Sample]], str]:
    """Divide the samples into training, validation and the published test part."""
    held = [s for s in samples if s.part == "test"]
    free = [s for s in samples if s.part != "test"]
    if choices.test:
        if not held:
            raise DataError(
                "the dataset has no labelled test part", received="--test", fix="Omit the option --test."
            )
        return {"training": free, "validation": held, "held out": []}, "validation on the published test part"
    groups = {s.group for s in free}
    published = any(s.part == "validation" for s in free)
    if choices.folds:
        chosen = fold_of(groups, folds=choices.folds, fold=choices.fold, seed=choices.seed)
        how = f"fold {choices.fold} of {choices.folds}, seed {choices.seed}"
    elif choices.validation_share is None and published:
        chosen = frozenset(s.group for s in free if s.part == "validation")
        how = "as published"
    else:
        share = DEFAULT_SHARE if choices.validation_share is None else choices.validation_share
        chosen = hold_out(groups, share=share, seed=choices.seed)
        how = f"{share:g} of the patients for validation, seed {choices.seed}"
    return {
        "training": [s for s in free if s.group not in chosen],
        "validation": [s for s in free if s.group in chosen],
        "held out": held,
    }, how


def _rows(sample: Sample, folder: Path, placement: Placement) -> list[Row]:
    def name(file: Path) -> str:
        whole = file.resolve()
        base = folder.resolve()
        return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else whole.as_posix()

    image = name(sample.image)
    return [
        Row(
            image=image,
            label=name(m.files[0]) if len(m.files) == 1 else tuple(name(f) for f in m.files),
            prompt=m.prompt,
            label_value=m.values[0] if m.values is not None and len(m.values) == 1 else m.values,
            label_geometry=placement.geometry,
            label_flip=placement.flip,
        )
        for m in sample.masks
    ]
