"""Evaluation on a datalist: Dice of every labelled structure, on the images' own grids."""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from gcis_runtime.atomic import replacing
from gcis_runtime.errors import CheckpointError, DataError
from gcis_train.checkpoint import Checkpoint
from gcis_train.datalist import Case, Target
from gcis_train.images import read_mask
from gcis_train.nets.network import StaticGcisNet
from gcis_train.reference import reference_labels
from gcis_train.validation import dice

Segment = Callable[[Path], npt.NDArray[Any]]
"""CT file to label map on its own grid."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Dice of one structure of one case; 1 when truth and prediction are both empty."""

    case: str
    prompt: str
    dice: float
    voxels_true: int
    voxels_predicted: int


def evaluate(
    cases: Sequence[Case], segment: Segment, values: dict[str, int], *, progress: Callable[[str], None]
) -> list[Score]:
    """Segment every case and score its labelled structures.

    Args:
        cases: What to evaluate.
        segment: Gives a label map on the image's grid.
        values: Value of each prompt in that label map; structures of other prompts are not scored.
        progress: Told one line a case.

    Raises:
        DataError: No case has a structure that can be scored, or a label is on another grid.
    """
    scores: list[Score] = []
    for number, case in enumerate(cases, start=1):
        targets = [t for t in case.targets if t.prompt in values]
        if not targets:
            continue
        started = time.monotonic()
        labels = segment(case.image)
        mine = [_score(case, target, labels == values[target.prompt]) for target in targets]
        scores.extend(mine)
        mean = np.mean([s.dice for s in mine])
        progress(f"{number}/{len(cases)}  {case.name}  Dice {mean:.3f}  {time.monotonic() - started:.1f} s")
    if not scores:
        raise DataError(
            "no labelled structure of the datalist is known to the network",
            expected=f"one of {sorted(values)}",
        )
    return scores


def _score(case: Case, target: Target, predicted: npt.NDArray[np.bool_]) -> Score:
    mask = read_mask(target)
    if mask.shape != predicted.shape:
        raise DataError(
            f"the label {target.labels[0].name} is on another grid than its image",
            received=f"shape {mask.shape}",
            expected=f"shape {predicted.shape}",
        )
    return Score(
        case=case.name,
        prompt=target.prompt,
        dice=dice(predicted, mask),
        voxels_true=int(mask.sum()),
        voxels_predicted=int(predicted.sum()),
    )


def network_segment(
    found: Checkpoint, *, overlap: float | None, device: torch.device
) -> tuple[Segment, dict[str, int]]:
    """Return the reference pipeline of a checkpoint and the label value of each of its prompts.

    Raises:
        CheckpointError: The checkpoint does not say its pre-processing, window or prompts.
    """
    config = found.config
    if config.preprocess is None or config.window is None or not config.prompts:
        raise CheckpointError(
            f"{found.folder} does not say its pre-processing, window or prompts",
            fix="Evaluate a bundle that was exported with --roi and --prompt instead.",
        )
    net = static_network(found).to(device)
    preprocess = config.preprocess
    window = config.window if overlap is None else msgspec.structs.replace(config.window, overlap=overlap)

    def segment(image: Path) -> npt.NDArray[Any]:
        return reference_labels(image, net, preprocess=preprocess, window=window, device=device)

    return segment, {prompt: i + 1 for i, prompt in enumerate(found.prompts)}


def static_network(found: Checkpoint) -> StaticGcisNet:
    """Return the static network for every prompt of a checkpoint's table, in its order."""
    if found.config.kind == "static":
        return found.static()
    net = found.routed()
    return StaticGcisNet.resolved(net, [net.resolve(found.embedding(p)) for p in found.prompts]).eval()


def summary(scores: Iterable[Score]) -> dict[str, Any]:
    """Return mean, median and worst Dice of each prompt, and the mean over prompts."""
    by_prompt: dict[str, list[float]] = {}
    for score in scores:
        by_prompt.setdefault(score.prompt, []).append(score.dice)
    rows = {
        prompt: {
            "cases": len(values),
            "mean": round(float(np.mean(values)), 4),
            "median": round(float(np.median(values)), 4),
            "worst": round(min(values), 4),
        }
        for prompt, values in by_prompt.items()
    }
    return {"mean_dice": round(float(np.mean([r["mean"] for r in rows.values()])), 4), "prompts": rows}


def table(result: dict[str, Any]) -> str:
    """Return a summary as a Markdown table."""
    lines = ["| structure | patients | mean Dice | median | worst |", "|---|---|---|---|---|"]
    for prompt, row in result["prompts"].items():
        lines.append(
            f"| {prompt} | {row['cases']} | {row['mean']:.3f} | {row['median']:.3f} | {row['worst']:.3f} |"
        )
    lines.append(f"| **mean of structures** | | **{result['mean_dice']:.3f}** | | |")
    return "\n".join(lines) + "\n"


def write_results(folder: Path, scores: Sequence[Score], notes: dict[str, Any]) -> dict[str, Any]:
    """Write `scores.csv`, `summary.json` and `summary.md` into a folder; returns the summary.

    Raises:
        OutputError: A file cannot be written.
    """
    result = {**notes, **summary(scores)}
    text = io.StringIO()
    writer = csv.writer(text)
    names = [field.name for field in dataclasses.fields(Score)]
    writer.writerow(names)
    writer.writerows([getattr(score, name) for name in names] for score in scores)
    contents = {
        "scores.csv": text.getvalue().encode(),
        "summary.json": msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n",
        "summary.md": table(result).encode(),
    }
    for name, data in contents.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(data)
    return result
