"""Test the files of an evaluation: undefined numbers are null, blank or '-', counted, and explained."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from gcis_train.evaluation.evaluate import Evaluation
from gcis_train.evaluation.scorecard import summarise, table, write_results
from gcis_train.evaluation.scores import DEFINITIONS, Score


def one(case: str, prompt: str, dice: float, **changes: Any) -> Score:
    fields: dict[str, Any] = {
        "surface_dice": dice, "hd95_mm": 10 * (1 - dice), "empty": "",
        "voxels_true": 5, "voxels_predicted": 5,
    }  # fmt: skip
    return Score(case=case, prompt=prompt, dice=dice, **{**fields, **changes})


@pytest.fixture
def found() -> Evaluation:
    scores = (
        one("a", "cord", 0.8),
        one("a", "larynx", 0.0, hd95_mm=None, empty="prediction", voxels_predicted=0),
        one("b", "cord", 0.6),
        one("c", "cord", 1.0, empty="both", voxels_true=0, voxels_predicted=0),
    )
    return Evaluation(scores=scores, tolerance=2.0, unscored={"liver": 2}, missing=("d",))


def test_means_are_per_prompt_and_per_case(found: Evaluation) -> None:
    result = summarise(found)
    cord, larynx = result["prompts"]["cord"], result["prompts"]["larynx"]
    assert (cord["cases"], cord["mean"], cord["median"], cord["worst"]) == (3, 0.8, 0.8, 0.6)
    assert cord["hd95_mm"] == {"mean": 2.0, "median": 2.0, "worst": 4.0, "undefined": 0}
    assert cord["empty"] == {"truth": 0, "prediction": 0, "both": 1}
    assert larynx["hd95_mm"] == {"mean": None, "median": None, "worst": None, "undefined": 1}
    assert result["mean_dice"] == 0.4  # prompts count once: (0.8 + 0) / 2
    assert result["mean_hd95_mm"] == 2.0  # of the prompts that have one
    assert result["cases"]["a"] == {
        "structures": 2, "dice": 0.4, "surface_dice": 0.4, "hd95_mm": 2.0, "worst_structure": "larynx",
    }  # fmt: skip
    assert result["unscored_prompts"] == {"liver": 2} and result["cases_without_prediction"] == ["d"]


def test_files_hold_no_nan_and_say_what_they_mean(found: Evaluation, tmp_path: Path) -> None:
    write_results(tmp_path, found, {"datalist": "d.json", "worst_cases": ["worst_1_a.png"]})

    def refuse(text: str) -> None:
        raise AssertionError(text)

    result = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)  # NaN, Infinity
    assert result["datalist"] == "d.json" and result["definitions"] == DEFINITIONS
    with (tmp_path / "scores.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["hd95_mm"] for row in rows] == ["2.0", "", "4.0", "0.0"]
    assert rows[1]["empty"] == "prediction"
    text = (tmp_path / "summary.md").read_text()
    for wanted in (
        *DEFINITIONS,
        "prompt 'liver': 2 rows",
        "case d: no prediction",
        "(worst_1_a.png)",
        "| b | 1 |",
    ):
        assert wanted in text
    assert "| larynx | 1 | 0.000 | 0.000 | 0.000 | 0.000 | 0.000 | - | - | 1 |" in table(result)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.csv", "summary.json", "summary.md"]
