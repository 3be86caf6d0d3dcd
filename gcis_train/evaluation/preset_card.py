"""Write the scores of a challenge preset: CSV per case and class, summaries as JSON and Markdown."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gcis_runtime.system.json_files import json_bytes
from gcis_train.evaluation.preset_scores import ClassScore, PresetEvaluation
from gcis_train.evaluation.presets import Preset, ScoringClass
from gcis_train.evaluation.scorecard import SCORES_FILE, SUMMARY_FILE, TABLE_FILE, write_files

_HEADS = {"dice": "Dice", "surface_dice": "surface Dice", "hd95_mm": "HD95, mm"}
_NOTICE = "Research software, not a medical device. The scores are not those of a ranked submission."


def summarise(found: PresetEvaluation) -> dict[str, Any]:
    """Return the applied rules and the means per class and group as JSON values.

    The mean of a group is None unless every class of it was scored in every case, since it would not be that
    of the challenge; `mean_of_scored` is the mean over the scored classes.
    """
    preset = found.preset
    rows = {c.name: _class_row(c, found) for c in preset.classes}
    used = [g for g in preset.groups if any(s.group == g for s in found.scores)]
    return {
        "preset": rules(preset),
        "classes": {name: row for name, row in rows.items() if row["cases"] or row["group"] in used},
        "groups": {group: _group_row(group, preset, rows, missing=bool(found.missing)) for group in used},
        "not_predicted_counted_empty": list(found.counted_empty),
        "cases_without_prediction": list(found.missing),
        "cases_without_any_class": list(found.unrelated),
        "notice": _NOTICE,
    }


def rules(preset: Preset) -> dict[str, Any]:
    """Return the rules of a preset as JSON values."""
    return {
        "name": preset.name,
        "challenge": preset.title,
        "source": preset.source,
        "metrics": list(preset.metrics),
        "both_empty": _only(preset, dataclasses.asdict(preset.both_empty)),
        "one_empty": _only(preset, dataclasses.asdict(preset.one_empty)),
        "rules": list(preset.rules),
        "open_rules": list(preset.open_rules),
    }


def _only(preset: Preset, values: dict[str, Any]) -> dict[str, Any]:
    return {metric: values[metric] for metric in preset.metrics}


def _class_row(chosen: ScoringClass, found: PresetEvaluation) -> dict[str, Any]:
    scores = [s for s in found.scores if s.name == chosen.name]
    row: dict[str, Any] = {
        "group": chosen.group,
        "union_of": list(chosen.prompts),
        **({"without": list(chosen.without)} if chosen.without else {}),
        **({"tolerance_mm": chosen.tolerance} if chosen.tolerance is not None else {}),
        **({"labelled_planes_only": True} if chosen.labelled_planes else {}),
        "cases": len(scores),
        "undefined": sum(s.dice is None for s in scores),
        "cases_without_rows": found.without_rows.get(chosen.name, 0),
        "cases_not_predicted": found.unpredicted.get(chosen.name, 0),
    }
    for metric in found.preset.metrics:
        row[metric] = _mean([getattr(s, metric) for s in scores])
    row["empty"] = {kind: sum(s.empty == kind for s in scores) for kind in ("truth", "prediction", "both")}
    return row


def _group_row(
    group: str, preset: Preset, rows: dict[str, dict[str, Any]], *, missing: bool
) -> dict[str, Any]:
    classes = [rows[c.name] for c in preset.classes if c.group == group]
    scored = [row for row in classes if row["cases"]]
    complete = len(scored) == len(classes) and not any(
        row["cases_without_rows"] or row["cases_not_predicted"] for row in classes
    )
    complete &= not missing
    means = {metric: _mean([row[metric] for row in scored]) for metric in preset.metrics}
    return {
        "classes": len(classes),
        "scored": len(scored),
        "complete": complete,
        "mean": means if complete else dict.fromkeys(preset.metrics),
        "mean_of_scored": means,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return round(float(np.mean(defined)), 4) if defined else None


def table(result: dict[str, Any]) -> str:
    """Return the classes and groups as a Markdown table, with the rules that were applied."""
    preset, metrics = result["preset"], result["preset"]["metrics"]
    heads = ["class", "cases", "tolerance, mm", *(_HEADS[m] for m in metrics)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, row in result["classes"].items():
        tolerance = f"{row['tolerance_mm']:.4g}" if "tolerance_mm" in row else "-"
        lines.append(f"| {' | '.join([name, str(row['cases']), tolerance, *_cells(row, metrics)])} |")
    for name, row in result["groups"].items():
        title = "mean" if row["complete"] else "incomplete, mean of the scored classes"
        count = f"{row['scored']} of {row['classes']} classes"
        cells = [f"**{name}: {title}**", count, "", *_cells(row["mean_of_scored"], metrics)]
        lines.append(f"| {' | '.join(cells)} |")
    said = [f"{preset['challenge']} rules, from {preset['source']}:"]
    for name, key in (("two empty masks", "both_empty"), ("one empty mask", "one_empty")):
        said.append(f"- {name}: " + ", ".join(f"{_HEADS[m]} {v:g}" for m, v in preset[key].items()))
    said += [f"- {rule}" for rule in preset["rules"]]
    said += [f"- not established: {rule}" for rule in preset["open_rules"]]
    return "\n".join([*lines, "", *said, "", *_gaps(result), _NOTICE, ""])


def _gaps(result: dict[str, Any]) -> list[str]:
    """Return lines on everything that was not scored."""
    lines = []
    for name, row in result["classes"].items():
        for key, why in (("cases_without_rows", "no rows"), ("cases_not_predicted", "not predicted")):
            if row[key]:
                lines.append(f"- not scored: {name} in {row[key]} cases ({why})")
        if row["undefined"]:
            lines.append(f"- undefined, left out of the mean: {name} in {row['undefined']} cases")
    lines += [f"- not predicted, counted as empty: {p}" for p in result["not_predicted_counted_empty"]]
    lines += [f"- no prediction: {case}" for case in result["cases_without_prediction"]]
    lines += [f"- no class of the challenge: {case}" for case in result["cases_without_any_class"]]
    return [*lines, ""] if lines else []


def _cells(row: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    digits = {"hd95_mm": 2}
    return ["-" if row[m] is None else f"{row[m]:.{digits.get(m, 4)}f}" for m in metrics]


def write_preset(folder: Path, found: PresetEvaluation, notes: dict[str, Any]) -> dict[str, Any]:
    """Write scores and summaries into a folder, and return the summary.

    Raises:
        OutputError: A file cannot be written.
    """
    result = {**notes, **summarise(found)}
    text = f"# Evaluation by the rules of {found.preset.title}\n\n{table(result)}"
    contents = {
        SCORES_FILE: _csv(found.scores, found.preset).encode(),
        SUMMARY_FILE: json_bytes(result),
        TABLE_FILE: text.encode(),
    }
    write_files(folder, contents)
    return result


def _csv(scores: Sequence[ClassScore], preset: Preset) -> str:
    """Return the scores as CSV, one row per case and class; undefined scores are blank."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "group", "class", *preset.metrics, "empty"])
    for score in scores:
        values = [getattr(score, metric) for metric in preset.metrics]
        cells = ["" if value is None else round(value, 6) for value in values]
        writer.writerow([score.case, score.group, score.name, *cells, score.empty])
    return text.getvalue()
