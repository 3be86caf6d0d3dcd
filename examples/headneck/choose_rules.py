"""Compare post-processing rules on label maps that were predicted once with `gcis-run --raw`.

    python examples/headneck/choose_rules.py DATALIST.json PREDICTIONS RESULT.json

PREDICTIONS is the output folder of gcis-run. Cases of the datalist without a label map there are skipped, so
that a part of the training patients is enough. The result has mean Dice and HD95 by split, rules
and structure.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from gcis_runtime.bundles.post_rules import read_rules
from gcis_runtime.images.files import read_grid
from gcis_runtime.pipeline.post import apply_rules
from gcis_runtime.system.json_files import write_json
from gcis_train.data.datalist import Case, group_cases, read_datalist
from gcis_train.evaluation.evaluate import Prediction, score_case
from gcis_train.evaluation.predictions import folder_source
from gcis_train.evaluation.scores import TOLERANCE, Score

CANDIDATES = ("", "largest", "min:0.25", "min:0.5", "min:1", "min:2", "fill")


def compare(cases: tuple[Case, ...], predictions: Path) -> dict[str, object]:
    """Return mean Dice and HD95 of every structure, by rules; rules "" are the raw labels."""
    source = folder_source(predictions, cases, allow_missing=True)
    scores: dict[str, list[Score]] = {rules: [] for rules in CANDIDATES}
    patients = 0
    for case in cases:
        raw = source.predict(case)
        if raw is None:
            continue
        patients += 1
        voxel_ml = float(np.prod(read_grid(case.image).spacing)) / 1000
        for rules in CANDIDATES:
            labels = np.array(raw.labels, order="F")
            if rules:
                apply_rules(labels, dict.fromkeys(raw.values.values(), read_rules(rules)), voxel_ml=voxel_ml)
            scores[rules] += score_case(
                case, Prediction(labels=labels, values=raw.values), tolerance=TOLERANCE
            )
        print(f"{patients}  {case.name}", file=sys.stderr)
    return {
        "patients": patients,
        "rules": {rules or "raw": summary(found) for rules, found in scores.items()},
    }


def summary(scores: list[Score]) -> dict[str, object]:
    """Return mean Dice and HD95 per structure, and the means of the structures."""
    rows = {}
    for prompt in sorted({score.prompt for score in scores}):
        mine = [score for score in scores if score.prompt == prompt]
        distances = [score.hd95_mm for score in mine if score.hd95_mm is not None]
        rows[prompt] = {
            "cases": len(mine),
            "dice": round(float(np.mean([score.dice for score in mine])), 4),
            "hd95_mm": round(float(np.mean(distances)), 3),
        }
    mean = {
        name: round(float(np.mean([row[name] for row in rows.values()])), 4) for name in ("dice", "hd95_mm")
    }
    return {"mean": mean, "structures": rows}


def main(datalist: str, predictions: str, out: str) -> None:
    """Compare the rules on both splits of a datalist and write the result."""
    rows = read_datalist(Path(datalist))
    splits = {"training": rows.training, "validation": rows.validation}
    found = {
        split: compare(group_cases(rows, folder=Path(datalist).parent), Path(predictions))
        for split, rows in splits.items()
    }
    write_json(Path(out), {"datalist": Path(datalist).name, **found})


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
