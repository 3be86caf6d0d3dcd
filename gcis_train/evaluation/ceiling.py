"""The ceiling of a voxel size: the Dice that the true labels themselves reach after the way there and back.

A network answers on a grid of its own spacing. Even one without any error loses what that grid cannot hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from gcis_runtime.grids.grid_transform import GridTransform, plan_grid
from gcis_runtime.spec import PreprocessSpec
from gcis_train.data.datalist import Case
from gcis_train.data.images import read_grid, read_mask
from gcis_train.data.volumes import load_case
from gcis_train.metrics import dice

WAYS = {
    "nearest": "labels to the grid by nearest voxel, as training does, and back the same way, as "
    "gcis-run --restore nearest does",
    "smooth": "partial volumes to the grid and back by linear interpolation, cut at one half: what logits "
    "hold that gcis-run interpolates before it decides, its default",
}


def ceilings(
    cases: Sequence[Case], specs: dict[str, PreprocessSpec], *, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Return the Dice of the true labels after each grid, by name of the grid, way and prompt.

    Args:
        cases: Labelled cases.
        specs: Grids by name; intensities do not matter, nor does cropping to them.
        progress: Told one line a case.

    Returns:
        For each grid and way the mean and worst Dice of each prompt, its cases, and the mean over prompts.

    Raises:
        DataError: A file that cannot be read, or a label on another grid than its image.
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
    """Return way, prompt and Dice of each structure of a case."""
    spec = msgspec.structs.replace(spec, foreground=msgspec.UNSET)
    grid = read_grid(case.image)
    x, y, z = grid.shape
    transform = plan_grid((x, y, z), grid.affine, spec)
    learned = load_case(case, spec)  # the very masks that training sees
    found = []
    for index, target in enumerate(case.targets):
        truth = read_mask(target)
        nearest = transform.invert(learned.mask(index).astype(np.uint8)) > 0
        smooth = _smooth(truth, transform)
        found.append(("nearest", target.prompt, dice(nearest, truth)))
        found.append(("smooth", target.prompt, dice(smooth, truth)))
    return found


def _smooth(truth: npt.NDArray[np.bool_], transform: GridTransform) -> npt.NDArray[np.bool_]:
    """Bring a mask's partial volumes to the network's grid and back, linearly, and cut at one half."""
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
    """Return the mean Dice of each prompt as a Markdown table: a column for each grid and way."""
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
