"""Draw the worst cases: prediction above truth, in planes through the worst structure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gcis_runtime.images.files import read_volume
from gcis_runtime.pictures.sheet import draw_planes
from gcis_runtime.system.atomic_files import replacing
from gcis_train.colors import distinct_colors
from gcis_train.data.datalist import Case
from gcis_train.data.masks import read_masks
from gcis_train.evaluation.evaluate import Prediction
from gcis_train.evaluation.scores import Score


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    case: Case
    labels: npt.NDArray[Any]
    scores: tuple[Score, ...]
    dice: float


class WorstCases:
    """Keeps the label maps of the cases with the lowest mean Dice only.

    Args:
        count: Number of cases to keep.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[_Seen] = []

    def see(self, case: Case, prediction: Prediction, scores: Sequence[Score]) -> None:
        """Keep a scored case if it is among the worst."""
        mean = float(np.mean([s.dice for s in scores]))
        labels = np.zeros(prediction.labels.shape, np.uint16)
        for index, score in enumerate(scores, start=1):
            labels[prediction.labels == prediction.values[score.prompt]] = index
        self._kept.append(_Seen(case=case, labels=labels, scores=tuple(scores), dice=mean))
        self._kept = sorted(self._kept, key=lambda seen: seen.dice)[: self._count]

    def write(self, folder: Path) -> list[str]:
        """Draw the kept cases into `folder`, and return the names of the files, the worst case first.

        Raises:
            OutputError: A file cannot be written.
            ImageError: A file of a case cannot be read.
        """
        names = []
        for rank, seen in enumerate(self._kept, start=1):
            names.append(f"worst_{rank}_{re.sub(r'[^A-Za-z0-9._-]+', '_', seen.case.name)}.png")
            picture = _draw(seen)
            with replacing(folder / names[-1]) as temporary, temporary.open("wb") as file:
                picture.save(file, format="PNG")
        return names


def _draw(seen: _Seen) -> Image.Image:
    """Draw two rows of three planes: prediction and truth."""
    image = read_volume(seen.case.image)
    by_prompt = {target.prompt: target for target in seen.case.targets}
    masks = list(read_masks([by_prompt[score.prompt] for score in seen.scores], like=image))
    truth = np.zeros(seen.labels.shape, np.uint16)
    for index, mask in enumerate(masks, start=1):
        truth[mask] = index
    worst = min(range(len(masks)), key=lambda i: seen.scores[i].dice)
    # The planes of a structure without true voxels are those of its prediction.
    aim = masks[worst] if masks[worst].any() else seen.labels == worst + 1
    colors = distinct_colors([score.prompt for score in seen.scores])
    return draw_planes(
        image,
        [("predicted", seen.labels), ("true", truth)],
        colors=dict(enumerate(colors, start=1)),
        legend=[(color, _text(score)) for color, score in zip(colors, seen.scores, strict=True)],
        centre_on=aim,
    )


def _text(score: Score) -> str:
    distance = "HD95 undefined" if score.hd95_mm is None else f"HD95 {score.hd95_mm:.1f} mm"
    return f"{score.prompt}  Dice {score.dice:.2f}  {distance}"
