"""Measure what test-time mirroring would gain: Dice of one pass, of the mirrored image, and of both together.

    python examples/headneck/mirror.py BUNDLE DATALIST.json RESULT.json

Each validation patient is segmented twice, the second time mirrored along its left-right axis. The
probability maps of the mirrored image are mirrored back, those of paired structures change places, and the
logits of both passes are averaged. Probabilities have steps of 1/255.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from gcis_runtime import Segmenter, Volume, read_volume
from gcis_runtime.system.json_files import write_json
from gcis_train.data.datalist import Case, group_cases, read_datalist
from gcis_train.data.sides import mirrored
from gcis_train.evaluation.evaluate import Prediction, score_case
from gcis_train.evaluation.scores import TOLERANCE, Score

Maps = dict[str, npt.NDArray[Any]]


def logits(segmenter: Segmenter, volume: Volume) -> Maps:
    """Return the logit of each structure, (X, Y, Z) float32, by prompt."""
    found = segmenter.segment(volume, probabilities=True, raw=True).probabilities
    assert found is not None
    probability = {
        label.prompt: found[label.value] / np.float32(255) for label in segmenter.bundle.manifest.labels
    }
    limited = {prompt: np.clip(p, 1e-3, 1 - 1e-3) for prompt, p in probability.items()}
    return {prompt: np.log(p / (1 - p)).astype(np.float32) for prompt, p in limited.items()}


def two_passes(segmenter: Segmenter, volume: Volume) -> tuple[Maps, Maps]:
    """Return the logits of an image, and those of its mirror image on the image's grid."""
    codes = nib.aff2axcodes(volume.affine)
    axis = next(i for i, code in enumerate(codes) if code in "LR")
    reflected = replace(volume, array=np.flip(volume.array, axis))
    other = logits(segmenter, reflected)
    back = {prompt: np.flip(other.get(mirrored(prompt), other[prompt]), axis) for prompt in other}
    return logits(segmenter, volume), back


def label_map(maps: Mapping[str, npt.NDArray[Any]], values: Mapping[str, int]) -> Prediction:
    """Return the structure with the largest logit in each voxel, background where none is positive."""
    stack = np.stack(list(maps.values()))
    names = np.array([values[prompt] for prompt in maps])
    labels = np.where(stack.max(0) > 0, names[stack.argmax(0)], 0).astype(np.uint8)
    return Prediction(labels=np.asfortranarray(labels), values=dict(values))


def compare(segmenter: Segmenter, cases: tuple[Case, ...]) -> dict[str, list[Score]]:
    """Return the scores of all patients by method."""
    values = {label.prompt: label.value for label in segmenter.bundle.manifest.labels}
    scores: dict[str, list[Score]] = {"one pass": [], "mirrored": [], "both": []}
    for case in cases:
        one, other = two_passes(segmenter, read_volume(case.image))
        both = {prompt: one[prompt] + other[prompt] for prompt in one}
        for name, maps in zip(scores, (one, other, both), strict=True):
            scores[name] += score_case(case, label_map(maps, values), tolerance=TOLERANCE)
        print(case.name, file=sys.stderr)
    return scores


def main(bundle: str, datalist: str, out: str) -> None:
    """Compare both passes on the validation patients of a datalist and write the mean Dice."""
    rows = read_datalist(Path(datalist)).validation
    with Segmenter.open(bundle) as segmenter:
        scores = compare(segmenter, group_cases(rows, folder=Path(datalist).parent))
    result = {}
    for name, found in scores.items():
        prompts = sorted({score.prompt for score in found})
        dice = {p: float(np.mean([s.dice for s in found if s.prompt == p])) for p in prompts}
        result[name] = {"mean": float(np.mean(list(dice.values()))), **dice}
    rounded = {name: {p: round(v, 4) for p, v in dice.items()} for name, dice in result.items()}
    write_json(Path(out), {"datalist": Path(datalist).name, "bundle": bundle, "dice": rounded})


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
