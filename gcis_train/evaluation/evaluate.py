"""Evaluate predictions on a datalist: score every labelled structure of every case on the image's grid."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from gcis_runtime.errors import AmbiguousPromptError, CheckpointError, DataError
from gcis_runtime.images.files import read_grid
from gcis_runtime.images.grid import Grid
from gcis_runtime.sliding.labeller import DEFAULT_RESTORE, Restore
from gcis_train.data.datalist import Case, Target, prompts_of
from gcis_train.data.flips import refuse_reversed
from gcis_train.data.masks import read_masks
from gcis_train.evaluation.reference import reference_labels
from gcis_train.evaluation.scores import TOLERANCE, Score, score
from gcis_train.nets.network import StaticGcisNet
from gcis_train.text.resolve import trained_name
from gcis_train.weights.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The predicted label map of a case.

    Attributes:
        labels: Label map (X, Y, Z) on the image's grid.
        values: Label value of each prompt; other prompts are not scored.
    """

    labels: npt.NDArray[Any]
    values: Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A source of predictions: a network, a bundle or a folder.

    Attributes:
        predict: Function from a case to its prediction, or to None where a missing prediction is allowed.
        prompts: Prompts that the source predicts; None if they differ between predictions.
        notes: Entries for the summary.
    """

    predict: Callable[[Case], Prediction | None]
    prompts: Collection[str] | None
    notes: dict[str, Any]


class Watcher(Protocol):
    """Receives every scored case before its label map is released."""

    def see(self, case: Case, prediction: Prediction, scores: Sequence[Score]) -> None:
        """Process one scored case."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        scores: One score per case and structure.
        tolerance: Tolerance of the surface Dice in mm.
        unscored: Prompts of the datalist that the source does not predict, with their number of rows.
        missing: Cases without a prediction.
    """

    scores: tuple[Score, ...]
    tolerance: float
    unscored: dict[str, int]
    missing: tuple[str, ...]


def evaluate(
    cases: Sequence[Case],
    source: Source,
    *,
    progress: Callable[[str], None],
    tolerance: float = TOLERANCE,
    watcher: Watcher | None = None,
    lesions: Collection[str] = (),
) -> Evaluation:
    """Predict every case and score its labelled structures.

    Args:
        cases: The cases. A prompt that is an alias of a predicted one is scored under the predicted name.
        source: Source of the predictions.
        progress: Called with one line per case.
        tolerance: Tolerance of the surface Dice in mm.
        watcher: Receives every scored case.
        lesions: Prompts whose connected components are counted as lesions (lesions.py).

    Raises:
        DataError: No case has a structure that can be scored, a prompt of `lesions` is in no case, or a
            prediction is on a different grid.
        ImageError: A file cannot be read, or a label is on a different grid.
    """
    scores: list[Score] = []
    unscored: dict[str, int] = {}
    missing: list[str] = []
    cases = [renamed(case, source.prompts) for case in cases]
    _check_lesions(lesions, prompts_of(tuple(cases)))
    for number, case in enumerate(cases, start=1):
        if source.prompts is not None and not any(t.prompt in source.prompts for t in case.targets):
            _count(unscored, case.targets)
            continue
        started = time.monotonic()
        prediction = source.predict(case)
        if prediction is None:
            missing.append(case.name)
            progress(f"{number}/{len(cases)}  {case.name}  no prediction")
            continue
        named = renamed(case, prediction.values.keys())
        _count(unscored, [t for t in named.targets if t.prompt not in prediction.values])
        mine = score_case(named, prediction, tolerance=tolerance, lesions=lesions)
        if not mine:
            continue
        scores.extend(mine)
        if watcher is not None:
            watcher.see(named, prediction, mine)
        mean = np.mean([s.dice for s in mine])
        progress(f"{number}/{len(cases)}  {case.name}  Dice {mean:.3f}  {time.monotonic() - started:.1f} s")
    if not scores:
        raise DataError(
            "no labelled structure of the datalist is predicted",
            received=f"predictions of {sorted(source.prompts)}" if source.prompts is not None else None,
            expected=f"one of {sorted(unscored)}",
            fix="Use exactly the same prompts in the datalist and in the predictions.",
        )
    return Evaluation(scores=tuple(scores), tolerance=tolerance, unscored=unscored, missing=tuple(missing))


def _check_lesions(lesions: Collection[str], prompts: Sequence[str]) -> None:
    if unknown := [prompt for prompt in lesions if prompt not in prompts]:
        raise DataError(
            "no case of the datalist has the lesion",
            received=repr(unknown[0]),
            expected=f"one of {', '.join(map(repr, prompts))}",
            fix="Correct --lesion.",
        )


def score_case(
    case: Case, prediction: Prediction, *, tolerance: float, lesions: Collection[str] = ()
) -> list[Score]:
    """Score the structures of a case that a prediction has; those in `lesions` also as lesions.

    Raises:
        DataError: The prediction has a different shape from the image, or the labels lie reversed against
            the image.
        ImageError: A file cannot be read, or a label is on a different grid from the image.
    """
    targets = [t for t in case.targets if t.prompt in prediction.values]
    refuse_reversed(case)
    grid = read_grid(case.image)
    check_shape(prediction.labels, grid, name=case.name)
    return [
        score(
            prediction.labels == prediction.values[target.prompt],
            truth,
            case=case.name,
            prompt=target.prompt,
            spacing=grid.spacing,
            tolerance=tolerance,
            lesions=target.prompt in lesions,
        )
        for target, truth in zip(targets, read_masks(targets, like=grid), strict=True)
    ]


def check_shape(labels: npt.NDArray[Any], grid: Grid, *, name: str) -> None:
    """Raise an error if a predicted label map has a different shape from the image of the case `name`."""
    if labels.shape != grid.shape:
        raise DataError(
            f"the prediction for {name} has a different shape from its image",
            received=f"{labels.shape}",
            expected=f"{grid.shape}",
        )


def renamed(case: Case, prompts: Collection[str] | None) -> Case:
    """Return a case whose prompts are replaced by the predicted prompts that they are aliases of.

    A prompt stays unchanged if it is ambiguous, or if the case already has a target of the predicted prompt.
    """
    if prompts is None:
        return case
    known, taken = tuple(prompts), {target.prompt for target in case.targets}
    targets = []
    for target in case.targets:
        name = _alias_of(target.prompt, known)
        if name is not None and name not in taken:
            taken.add(name)
            targets.append(dataclasses.replace(target, prompt=name))
        else:
            targets.append(target)
    return case if tuple(targets) == case.targets else dataclasses.replace(case, targets=tuple(targets))


def _alias_of(prompt: str, known: Sequence[str]) -> str | None:
    """Return the known prompt that a prompt is an alias of; None if there is none, or several."""
    if prompt in known:
        return None
    try:
        return trained_name(prompt, known)
    except AmbiguousPromptError:
        return None


def _count(unscored: dict[str, int], targets: Sequence[Target]) -> None:
    for target in targets:
        unscored[target.prompt] = unscored.get(target.prompt, 0) + 1


def network_source(
    found: Checkpoint, *, overlap: float | None, device: torch.device, restore: Restore = DEFAULT_RESTORE
) -> Source:
    """Return the reference pipeline of a checkpoint: PyTorch and MONAI.

    Raises:
        CheckpointError: The checkpoint lacks its pre-processing, window or prompts.
    """
    config = found.config
    if config.preprocess is None or config.window is None or not config.prompts:
        raise CheckpointError(
            f"{found.folder} lacks its pre-processing, window or prompts",
            expected="a checkpoint that gcis-train wrote",
            fix="Evaluate a bundle that was exported with --roi and --prompt instead.",
        )
    net = static_network(found).to(device)
    preprocess = config.preprocess
    window = config.window if overlap is None else msgspec.structs.replace(config.window, overlap=overlap)
    values = {prompt: i + 1 for i, prompt in enumerate(found.prompts)}

    def predict(case: Case) -> Prediction:
        labels = reference_labels(
            case.image, net, preprocess=preprocess, window=window, restore=restore, device=device
        )
        return Prediction(labels=labels, values=values)

    notes = {"checkpoint_sha256": found.sha256, "pipeline": "pytorch", "restore": restore}
    return Source(predict=predict, prompts=values.keys(), notes=notes)


def static_network(found: Checkpoint) -> StaticGcisNet:
    """Return the static network for all prompts of a checkpoint's table, in its order."""
    if found.config.kind == "static":
        return found.static()
    net = found.routed()
    return StaticGcisNet.resolved(net, [net.resolve(found.embedding(p)) for p in found.prompts]).eval()
