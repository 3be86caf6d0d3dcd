"""Write the results of an evaluation: scores as CSV, summaries per prompt and case as JSON and Markdown."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gcis_runtime.system.atomic_files import replacing
from gcis_runtime.system.json_files import json_bytes
from gcis_train.evaluation import lesions
from gcis_train.evaluation.evaluate import Evaluation
from gcis_train.evaluation.lesions import Detection
from gcis_train.evaluation.scores import DEFINITIONS, Score

SCORES_FILE = "scores.csv"
SUMMARY_FILE = "summary.json"
TABLE_FILE = "summary.md"


def summarise(found: Evaluation) -> dict[str, Any]:
    """Return means, medians and worst values per prompt and per case as JSON values.

    The overall means are over prompts, with equal weights. `mean`, `median` and `worst` of a prompt refer to
    its Dice.
    """
    prompts = {prompt: _prompt_row(scores) for prompt, scores in _grouped(found.scores, "prompt").items()}
    rows = list(prompts.values())
    found_lesions = _lesion_rows(found.scores)
    return {
        "tolerance_mm": found.tolerance,
        "mean_dice": _mean(row["mean"] for row in rows),
        "mean_surface_dice": _mean(row["surface_dice"]["mean"] for row in rows),
        "mean_hd95_mm": _mean(row["hd95_mm"]["mean"] for row in rows),
        "prompts": prompts,
        **({"lesions": found_lesions} if found_lesions else {}),
        "cases": {case: _case_row(scores) for case, scores in _grouped(found.scores, "case").items()},
        "unscored_prompts": found.unscored,
        "cases_without_prediction": list(found.missing),
        "definitions": {**DEFINITIONS, **(lesions.DEFINITIONS if found_lesions else {})},
    }


def _lesion_rows(scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
    """Return the counts of each prompt whose components were counted as lesions."""
    rows = {}
    for prompt, mine in _grouped(scores, "prompt").items():
        if counted := [s.detection for s in mine if s.detection is not None]:
            rows[prompt] = lesions.totals(counted)
    return rows


def _grouped(scores: Sequence[Score], field: str) -> dict[str, list[Score]]:
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault(getattr(score, field), []).append(score)
    return groups


def _prompt_row(scores: Sequence[Score]) -> dict[str, Any]:
    distances = [s.hd95_mm for s in scores if s.hd95_mm is not None]
    return {
        "cases": len(scores),
        **_spread([s.dice for s in scores], worst=min),
        "surface_dice": _spread([s.surface_dice for s in scores], worst=min),
        "hd95_mm": {**_spread(distances, worst=max), "undefined": len(scores) - len(distances)},
        "empty": {kind: sum(s.empty == kind for s in scores) for kind in ("truth", "prediction", "both")},
    }


def _case_row(scores: Sequence[Score]) -> dict[str, Any]:
    return {
        "structures": len(scores),
        "dice": _mean(s.dice for s in scores),
        "surface_dice": _mean(s.surface_dice for s in scores),
        "hd95_mm": _mean(s.hd95_mm for s in scores),
        "worst_structure": min(scores, key=lambda s: s.dice).prompt,
    }


def _spread(values: Sequence[float], *, worst: Callable[[Sequence[float]], float]) -> dict[str, Any]:
    if not values:
        return {"mean": None, "median": None, "worst": None}
    return {
        "mean": _mean(values),
        "median": round(float(np.median(values)), 4),
        "worst": round(worst(values), 4),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the defined values, or None without any (JSON has no NaN)."""
    defined = [value for value in values if value is not None]
    return round(float(np.mean(defined)), 4) if defined else None


def table(result: dict[str, Any]) -> str:
    """Return the summary per prompt as a Markdown table."""
    head = f"surface Dice, {result['tolerance_mm']:g} mm"
    lines = [
        f"| structure | cases | mean Dice | median | worst | {head} | worst | HD95, mm | worst | undefined |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for prompt, row in result["prompts"].items():
        surface, distance = row["surface_dice"], row["hd95_mm"]
        cells = [
            prompt,
            str(row["cases"]),
            *(_text(row[name], 3) for name in ("mean", "median", "worst")),
            *(_text(surface[name], 3) for name in ("mean", "worst")),
            *(_text(distance[name], 1) for name in ("mean", "worst")),
            str(distance["undefined"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    dice, surface, distance = (
        _text(result[name], digits)
        for name, digits in (("mean_dice", 3), ("mean_surface_dice", 3), ("mean_hd95_mm", 1))
    )
    lines.append(f"| **mean of structures** | | **{dice}** | | | **{surface}** | | **{distance}** | | |")
    text = "\n".join(lines) + "\n"
    return f"{text}\n{lesions.table(result['lesions'])}" if "lesions" in result else text


def _case_table(result: dict[str, Any]) -> str:
    lines = [
        "| case | structures | Dice | surface Dice | HD95, mm | worst structure |",
        "|---|---|---|---|---|---|",
    ]
    for case, row in result["cases"].items():
        numbers = (_text(row["dice"], 3), _text(row["surface_dice"], 3), _text(row["hd95_mm"], 1))
        cells = (case, str(row["structures"]), *numbers, row["worst_structure"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def report(result: dict[str, Any]) -> str:
    """Return the complete summary as Markdown: both tables, the definitions and the unscored items."""
    parts = ["# Evaluation\n", table(result), "## Cases\n", _case_table(result)]
    if result.get("worst_cases"):
        parts += ["## Worst cases\n", "".join(f"![{name}]({name})\n" for name in result["worst_cases"])]
    parts += [
        "## Definitions\n",
        "".join(f"- {name}: {text}\n" for name, text in result["definitions"].items()),
    ]
    unscored = [f"prompt {prompt!r}: {rows} rows" for prompt, rows in result["unscored_prompts"].items()]
    unscored += [f"case {case}: no prediction" for case in result["cases_without_prediction"]]
    if unscored:
        parts += ["## Not scored\n", "".join(f"- {text}\n" for text in unscored)]
    return "\n".join(parts)


def write_results(folder: Path, found: Evaluation, notes: dict[str, Any]) -> dict[str, Any]:
    """Write scores and summaries into a folder, and return the summary.

    Raises:
        OutputError: A file cannot be written.
    """
    result = {**notes, **summarise(found)}
    contents = {
        SCORES_FILE: _csv(found.scores).encode(),
        SUMMARY_FILE: json_bytes(result),
        TABLE_FILE: report(result).encode(),
    }
    write_files(folder, contents)
    return result


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a folder, each atomically.

    Raises:
        OutputError: A file cannot be written.
    """
    for name, data in contents.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(data)


def _csv(scores: Sequence[Score]) -> str:
    """Return the scores as CSV, one row per score; undefined distances and counts are blank."""
    text = io.StringIO()
    names = [field.name for field in dataclasses.fields(Score) if field.name != "detection"]
    counts = [field.name for field in dataclasses.fields(Detection)] if _lesion_rows(scores) else []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, *counts])
    for score in scores:
        counted = [getattr(score.detection, name, None) for name in counts]
        writer.writerow([*(_cell(getattr(score, name)) for name in names), *counted])
    return text.getvalue()


def _cell(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
