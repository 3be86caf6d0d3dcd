"""Compute the ceiling of a voxel size: the Dice of the true labels after resampling to it and back.

A network predicts on a grid with the spacing of its training. Even without errors, its labels lose the
details that this grid cannot represent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from gcis_runtime.grids.grid_transform import GridTransform, plan_grid
from gcis_runtime.images.files import read_grid
from gcis_runtime.spec import PreprocessSpec
from gcis_train.data.datalist import Case
from gcis_train.data.masks import read_masks
from gcis_train.data.volumes import load_case
from gcis_train.metrics import dice

WAYS = {
    "nearest": "labels to the grid by nearest voxel, as in training, and back by nearest voxel, as in "
    "gcis-run --restore nearest",
    "smooth": "partial volumes to the grid and back by linear interpolation, thresholded at one half: the "
    "resolution of logits that gcis-run interpolates to the image's grid, its default",
}


def ceilings(
    cases: Sequence[Case], specs: dict[str, PreprocessSpec], *, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Return the Dice of the true labels after resampling, by grid, interpolation and prompt.

    Args:
        cases: Labelled cases.
        specs: Grids by name; intensity windows and foreground crops are ignored.
        progress: Called with one line per case.

    Returns:
        Per grid and interpolation: mean and worst Dice and number of cases per prompt, and the mean over
        prompts.

    Raises:
        DataError: A file cannot be read, or a label is on a different grid from its image.
    """
    scores: dict[tuple[str, str, str], list[float]] = {}
    for number, case in enumerate(cases, start=1):
        for name, spec in specs.items():
            for way, prompt, value in _case_scores(case, spec):
                scores.setdefault((name, way, prompt), []).append(value)
        progress(f"{number}/{len(cases)}  {case.name}")
    prompts = list(dict.fromkeys(prompt for _, _, prompt in scores))
    grids = {
        name: {way: _summary({p: scores[name, way, p] for p in prompts}) for way in WAYS} for name in specs
    }
    return {"ways": WAYS, "grids": grids}


def _case_scores(case: Case, spec: PreprocessSpec) -> list[tuple[str, str, float]]:
    """Return interpolation, prompt and Dice of each structure of a case."""
    spec = msgspec.structs.replace(spec, foreground=msgspec.UNSET)
    learned = load_case(case, spec)  # the same masks as in training
    grid = read_grid(case.image)
    x, y, z = grid.shape
    transform = plan_grid((x, y, z), grid.affine, spec)
    found = []
    truths = read_masks(case.targets, like=grid)
    for index, (target, truth) in enumerate(zip(case.targets, truths, strict=True)):
        nearest = transform.invert(learned.mask(index).astype(np.uint8)) > 0
        smooth = _smooth(truth, transform)
        found.append(("nearest", target.prompt, dice(nearest, truth)))
        found.append(("smooth", target.prompt, dice(smooth, truth)))
    return found


def _smooth(truth: npt.NDArray[np.bool_], transform: GridTransform) -> npt.NDArray[np.bool_]:
    """Resample a mask linearly to the network's grid and back, and threshold it at one half."""
    share = transform.forward(truth.astype(np.float32))
    if transform.to_file is not None:
        share = transform.to_file.linear(share)
    back = np.flip(share.transpose(np.argsort(transform.order)), transform.flips)
    return np.asarray(back > 0.5)


def _summary(scores: dict[str, list[float]]) -> dict[str, Any]:
    rows = {
        prompt: {
            "cases": len(values),
            "mean": round(float(np.mean(values)), 4),
            "worst": round(min(values), 4),
        }
        for prompt, values in scores.items()
    }
    return {"mean_dice": round(float(np.mean([r["mean"] for r in rows.values()])), 4), "prompts": rows}


def table(result: dict[str, Any]) -> str:
    """Return the mean Dice per prompt as a Markdown table, with one column per grid and interpolation."""
    columns = [(name, way) for name in result["grids"] for way in WAYS]
    summaries = [result["grids"][name][way] for name, way in columns]
    lines = [
        "| structure | cases | " + " | ".join(f"{name}, {way}" for name, way in columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for prompt, row in summaries[0]["prompts"].items():
        cells = [f"{summary['prompts'][prompt]['mean']:.3f}" for summary in summaries]
        lines.append(f"| {prompt} | {row['cases']} | " + " | ".join(cells) + " |")
    means = [f"**{summary['mean_dice']:.3f}**" for summary in summaries]
    lines.append("| **mean of structures** | | " + " | ".join(means) + " |")
    return "\n".join(lines) + "\n"
