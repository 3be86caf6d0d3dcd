"""Score predictions by the rules of a challenge (presets.py)."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from gcis_runtime.errors import DataError
from gcis_runtime.images.files import read_grid
from gcis_runtime.images.grid import Grid
from gcis_runtime.spec import Triple
from gcis_train.data.datalist import Case
from gcis_train.data.flips import refuse_reversed
from gcis_train.data.masks import read_masks
from gcis_train.evaluation.evaluate import Source, check_shape, renamed
from gcis_train.evaluation.presets import EmptyRule, Preset, ScoringClass
from gcis_train.evaluation.scores import Empty, Mask, box_of, empty_mask, surface_dice
from gcis_train.metrics import dice

_FACES = ndimage.generate_binary_structure(3, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Scores of one class of one case.

    Attributes:
        case: Name of the case.
        group: Group of the class.
        name: Name of the class.
        dice: Dice coefficient; None where the rules leave it undefined.
        surface_dice: Surface Dice; None where it is undefined or not part of the challenge.
        hd95_mm: HD95 in mm; None where it is not part of the challenge.
        empty: The mask without voxels: `both`, `truth`, `prediction`, or an empty string for neither.
    """

    case: str
    group: str
    name: str
    dice: float | None
    surface_dice: float | None
    hd95_mm: float | None
    empty: Empty


@dataclasses.dataclass(frozen=True, kw_only=True)
class PresetEvaluation:
    """The result of an evaluation by the rules of a challenge.

    Attributes:
        preset: The rules.
        scores: One score per case and class.
        without_rows: Number of cases per class that lack a row of the class.
        unpredicted: Number of cases per class of which no structure is predicted.
        counted_empty: Structures that were not predicted in a class with others that were.
        missing: Cases without a prediction.
        unrelated: Cases without the structures of any class.
    """

    preset: Preset
    scores: tuple[ClassScore, ...]
    without_rows: dict[str, int]
    unpredicted: dict[str, int]
    counted_empty: tuple[str, ...]
    missing: tuple[str, ...]
    unrelated: tuple[str, ...]


def evaluate_preset(
    cases: Sequence[Case], source: Source, preset: Preset, *, progress: Callable[[str], None]
) -> PresetEvaluation:
    """Predict every case and score the classes of a challenge.

    Args:
        cases: The cases. A class is scored where the case has rows of all its structures.
        source: Source of the predictions. A class is scored if one of its structures is predicted; the others
            count as empty masks.
        preset: The rules.
        progress: Called with one line per case.

    Raises:
        DataError: No class can be scored, labels lie reversed against their image, or a prediction has a
            different shape from its image.
        ImageError: A file cannot be read, or a label is on a different grid.
    """
    scores: list[ClassScore] = []
    without_rows: Counter[str] = Counter()
    unpredicted: Counter[str] = Counter()
    counted_empty: dict[str, None] = {}
    missing: list[str] = []
    unrelated: list[str] = []
    for number, case in enumerate(cases, start=1):
        classes = classes_of(case, preset)
        prompts = {target.prompt for target in case.targets}
        complete = [c for c in classes if prompts.issuperset(c.needs)]
        if not complete:
            unrelated.append(case.name)
            continue
        without_rows.update(c.name for c in classes if c not in complete)
        if source.prompts is not None and not _predicted(case, complete, source.prompts):
            unpredicted.update(c.name for c in complete)
            continue
        started = time.monotonic()
        prediction = source.predict(case)
        if prediction is None:
            missing.append(case.name)
            progress(f"{number}/{len(cases)}  {case.name}  no prediction")
            continue
        values = _values(case, prediction.values)
        chosen = _predicted(case, complete, prediction.values.keys())
        unpredicted.update(c.name for c in complete if c not in chosen)
        counted_empty.update(dict.fromkeys(p for c in chosen for p in c.prompts if p not in values))
        mine = list(_score_case(case, prediction.labels, values, chosen, preset))
        scores.extend(mine)
        known = [s.dice for s in mine if s.dice is not None]
        mean = f"Dice {np.mean(known):.3f}" if known else "no score"
        progress(f"{number}/{len(cases)}  {case.name}  {mean}  {time.monotonic() - started:.1f} s")
    if not scores:
        raise _nothing(preset, cases, source)
    return PresetEvaluation(
        preset=preset,
        scores=tuple(scores),
        without_rows=dict(without_rows),
        unpredicted=dict(unpredicted),
        counted_empty=tuple(counted_empty),
        missing=tuple(missing),
        unrelated=tuple(unrelated),
    )


def classes_of(case: Case, preset: Preset) -> tuple[ScoringClass, ...]:
    """Return the classes of a challenge that apply to a case.

    Where a case belongs to one group, it is the largest group whose structures the case has.
    """
    if not preset.one_group_per_case:
        return preset.classes
    prompts = {target.prompt for target in case.targets}
    groups = [tuple(c for c in preset.classes if c.group == group) for group in preset.groups]
    fitting = [group for group in groups if prompts.issuperset(p for c in group for p in c.needs)]
    return max(fitting, key=len, default=())


def _names(case: Case, predicted: Collection[str]) -> dict[str, str]:
    """Return the predicted name of each structure by its prompt in the datalist, without unpredicted ones."""
    pairs = zip(case.targets, renamed(case, predicted).targets, strict=True)
    return {target.prompt: other.prompt for target, other in pairs if other.prompt in predicted}


def _values(case: Case, predicted: Mapping[str, int]) -> dict[str, int]:
    """Return the label value of each predicted structure by its prompt in the datalist."""
    return {prompt: predicted[name] for prompt, name in _names(case, predicted.keys()).items()}


def _predicted(case: Case, classes: Sequence[ScoringClass], predicted: Collection[str]) -> list[ScoringClass]:
    """Return the classes of which at least one structure is predicted."""
    names = _names(case, predicted)
    return [c for c in classes if any(prompt in names for prompt in c.prompts)]


def _score_case(
    case: Case,
    labels: npt.NDArray[Any],
    values: Mapping[str, int],
    classes: Sequence[ScoringClass],
    preset: Preset,
) -> Iterator[ClassScore]:
    grid = read_grid(case.image)
    check_shape(labels, grid, name=case.name)
    refuse_reversed(case)
    for chosen, truth in _truths(case, classes, grid):
        included = [values[p] for p in chosen.prompts if p in values]
        predicted = np.isin(labels, included)
        yield score_class(predicted, truth, chosen, preset, case=case.name, spacing=grid.spacing)


def _truths(case: Case, classes: Sequence[ScoringClass], grid: Grid) -> Iterator[tuple[ScoringClass, Mask]]:
    """Yield the true mask of each class; a structure is kept in memory until its last class."""
    by_prompt = {target.prompt: target for target in case.targets}
    uses = Counter(prompt for c in classes for prompt in c.needs)
    targets = [by_prompt[prompt] for prompt in uses]
    masks = zip(targets, read_masks(targets, like=grid), strict=True)
    held: dict[str, Mask] = {}
    for chosen in classes:
        while not held.keys() >= set(chosen.needs):
            target, mask = next(masks)
            held[target.prompt] = mask
        truth = np.logical_or.reduce([held[p] for p in chosen.prompts])
        for prompt in chosen.without:
            truth &= ~held[prompt]
        for prompt in chosen.needs:
            uses[prompt] -= 1
            if not uses[prompt]:
                del held[prompt]
        yield chosen, truth


def score_class(
    predicted: Mask, truth: Mask, chosen: ScoringClass, preset: Preset, *, case: str, spacing: Triple
) -> ClassScore:
    """Score the masks (X, Y, Z) of a class; spacing in mm along X, Y, Z."""
    empty = empty_mask(predicted, truth)
    if not empty or (empty == "prediction" and chosen.labelled_planes):
        found = _scores(predicted, truth, chosen, preset, spacing=spacing)
    else:
        found = preset.both_empty if empty == "both" else preset.one_empty
    return ClassScore(
        case=case,
        group=chosen.group,
        name=chosen.name,
        dice=None if found is None else found.dice,
        surface_dice=None if found is None else found.surface_dice,
        hd95_mm=None if found is None else found.hd95_mm,
        empty=empty,
    )


def _scores(
    predicted: Mask, truth: Mask, chosen: ScoringClass, preset: Preset, *, spacing: Triple
) -> EmptyRule | None:
    """Return the scores of a non-empty true mask, or None if the rules leave them undefined."""
    if chosen.labelled_planes:
        planes = np.flatnonzero(truth.any(axis=(0, 1)))
        kept = slice(int(planes[0]), int(planes[-1]))
        predicted, truth = predicted[..., kept], truth[..., kept]
        if not truth.any():
            return None
        if not predicted.any():
            return preset.one_empty
    surface = chosen.tolerance is not None
    return EmptyRule(
        dice=dice(predicted, truth),
        surface_dice=surface_dice(predicted, truth, spacing=spacing, tolerance=chosen.tolerance or 0.0)
        if surface
        else None,
        hd95_mm=pooled_hd95(predicted, truth, spacing=spacing) if "hd95_mm" in preset.metrics else None,
    )


def pooled_hd95(predicted: Mask, truth: Mask, *, spacing: Triple) -> float:
    """Return the 95th percentile in mm of the distances of both surfaces to the other, taken together.

    Args:
        predicted: Non-empty mask (X, Y, Z).
        truth: Non-empty mask (X, Y, Z).
        spacing: Voxel size in mm along X, Y, Z.
    """
    box = box_of(predicted | truth)
    one, two = (mask[box] ^ ndimage.binary_erosion(mask[box], _FACES) for mask in (predicted, truth))
    distances = [
        ndimage.distance_transform_edt(~other, sampling=spacing)[surface]
        for surface, other in ((one, two), (two, one))
    ]
    return float(np.percentile(np.concatenate(distances), 95))


def _nothing(preset: Preset, cases: Sequence[Case], source: Source) -> DataError:
    found = dict.fromkeys(target.prompt for case in cases for target in case.targets)
    predicted = "" if source.prompts is None else f"; predicted: {', '.join(map(repr, source.prompts))}"
    return DataError(
        f"no class of {preset.title} can be scored",
        received=f"rows of {', '.join(map(repr, found))}{predicted}",
        expected=f"of {', '.join(map(repr, dict.fromkeys(p for c in preset.classes for p in c.needs)))}",
        fix="Create the datalist with gcis-train datalist, without --sides joined and --prompt.",
    )
