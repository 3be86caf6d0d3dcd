"""What the way back to the file's grid does to Dice: `smooth` against `nearest`, same network, same cases."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from benchmarks.environment import environment
from gcis_runtime.sliding.labeller import Restore
from gcis_train.data.datalist import Case, group_cases, read_datalist
from gcis_train.data.phantoms import write_phantoms
from gcis_train.evaluation.bundle_predictions import bundle_source
from gcis_train.evaluation.evaluate import evaluate
from gcis_train.evaluation.scores import Score


def compare(
    bundle: str, *, datalist: Path | None, cases: int, phantoms: int, seed: int, folder: Path
) -> dict[str, Any]:
    """Score both ways on the first validation cases of a datalist and on phantoms.

    Args:
        bundle: The bundle.
        datalist: Real cases, if any.
        cases: How many of them.
        phantoms: How many phantoms, on the grid that the scanner model draws.
        seed: The first phantom's.
        folder: For the phantoms' files.

    Returns:
        The record, ready for JSON.
    """
    sets: dict[str, list[Case]] = {}
    if datalist is not None:
        sets["patients"] = list(
            group_cases(read_datalist(datalist).validation, folder=datalist.parent)[:cases]
        )
    rows = write_phantoms(folder, count=phantoms, seed=seed, spacing=(1.0, 1.0, 2.0))
    sets["phantoms"] = list(group_cases(rows.validation, folder=folder))
    results: dict[str, Any] = {}
    for name, chosen in sets.items():
        results[name] = {}
        for restore in get_args(Restore):
            started = time.perf_counter()
            with bundle_source(bundle, engine="auto", precision="auto", restore=restore) as source:
                scores = evaluate(chosen, source, progress=lambda _: None).scores
            results[name][restore] = {
                **_dice(scores),
                "seconds": round(time.perf_counter() - started, 1),
                "pipeline": source.notes["pipeline"],
            }
    return {
        "what": "restore",
        "environment": environment(),
        "bundle": bundle,
        "cases": {name: len(chosen) for name, chosen in sets.items()},
        "phantom_spacing_mm": [1.0, 1.0, 2.0],
        "results": results,
    }


def _dice(scores: Iterable[Score]) -> dict[str, Any]:
    """Return each structure's mean Dice, and the mean over structures."""
    by_prompt: dict[str, list[float]] = {}
    for score in scores:
        by_prompt.setdefault(score.prompt, []).append(score.dice)
    means = {prompt: statistics.fmean(values) for prompt, values in by_prompt.items()}
    rows = {p: {"cases": len(by_prompt[p]), "mean": round(mean, 4)} for p, mean in means.items()}
    return {"mean_dice": round(statistics.fmean(means.values()), 4), "prompts": rows}
