"""Test the rules of challenges on masks whose scores are computed by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gcis_runtime.errors import DataError
from gcis_train.cli.evaluation import PRESET_CHOICES
from gcis_train.cli.main import main
from gcis_train.data.datalist import Case, group_cases, read_datalist
from gcis_train.datasets import DATASETS, msd
from gcis_train.datasets.flare22 import ORGANS as FLARE22
from gcis_train.datasets.kits import LABELS as KITS
from gcis_train.datasets.segrap import STRUCTURES as SEGRAP
from gcis_train.datasets.word import ORGANS as WORD
from gcis_train.evaluation.evaluate import Prediction, Source
from gcis_train.evaluation.preset_card import rules, summarise, table
from gcis_train.evaluation.preset_scores import (
    ClassScore,
    PresetEvaluation,
    evaluate_preset,
    pooled_hd95,
    score_class,
)
from gcis_train.evaluation.presets import PRESETS, ScoringClass
from gcis_train.evaluation.scores import surface_scores
from tests.support.training_values import write_nifti

SHAPE = (20, 5, 10)
KITS_VALUES = {prompt: value for value, prompt in KITS.items()}
EVERY_CLASS = [(p, c) for p in PRESETS.values() for c in p.classes]
NAMES = [f"{p.name}-{c.name}" for p, c in EVERY_CLASS]


def on_line(**values: range) -> np.ndarray:
    """Return a label map with voxels along X: `v1=range(3)` sets the value 1 in the first three."""
    labels = np.zeros(SHAPE, np.uint8)
    for name, places in values.items():
        for x in places:
            labels[x, 2, 5] = int(name[1:])
    return labels


KIDNEY_TRUTH = on_line(v1=range(10), v2=range(10, 14), v3=range(14, 16))
KIDNEY_FOUND = on_line(v1=range(2, 18), v2=range(10, 12)) + 0
KIDNEY_FOUND[14:16, 2, 5] = 2


def write(folder: Path, labels: np.ndarray, values: dict[str, int], *, name: str = "ct") -> Path:
    """Write an image, its label map and a datalist with a validation row per structure."""
    rng = np.random.default_rng(0)
    write_nifti(folder / f"{name}.nii.gz", rng.integers(-1000, 500, labels.shape).astype(np.int16))
    write_nifti(folder / f"{name}_label.nii.gz", labels)
    image, label = f"{name}.nii.gz", f"{name}_label.nii.gz"
    rows = [{"image": image, "label": label, "prompt": p, "label_value": v} for p, v in values.items()]
    path = folder / "datalist.json"
    old = json.loads(path.read_text())["validation"] if path.is_file() else []
    path.write_text(json.dumps({"training": [], "validation": old + rows}))
    return path


def cases_of(path: Path) -> tuple[Case, ...]:
    return group_cases(read_datalist(path).validation, folder=path.parent)


def scored(path: Path, preset: str, labels: np.ndarray, values: dict[str, int]) -> PresetEvaluation:
    source = Source(
        predict=lambda _: Prediction(labels=labels, values=values), prompts=values.keys(), notes={}
    )
    return evaluate_preset(cases_of(path), source, PRESETS[preset], progress=lambda _: None)


def of_class(preset: str, name: str) -> ScoringClass:
    return next(c for c in PRESETS[preset].classes if c.name == name)


def one(
    preset: str, name: str, predicted: np.ndarray, truth: np.ndarray, spacing: Any = (1, 1, 1)
) -> ClassScore:
    return score_class(
        predicted > 0, truth > 0, of_class(preset, name), PRESETS[preset], case="c", spacing=spacing
    )


def test_kidneys_are_scored_in_nested_classes(tmp_path: Path) -> None:
    path = write(tmp_path, KIDNEY_TRUTH, KITS_VALUES)
    found = {s.name: s.dice for s in scored(path, "kits23", KIDNEY_FOUND, KITS_VALUES).scores}
    # Kidney and masses: voxels 0 to 15 and 2 to 17 share 14. Masses: 6 and 4 share 4. Tumor: 4 and 4 share 2.
    assert found == {"kidney and masses": 28 / 32, "masses": 8 / 10, "tumor": 4 / 8}


def test_organs_with_or_without_their_lesions_give_the_same_kidneys(tmp_path: Path) -> None:
    path = write(tmp_path, KIDNEY_TRUTH, KITS_VALUES)
    apart = scored(path, "kits23", KIDNEY_FOUND, KITS_VALUES).scores
    rows = json.loads(path.read_text())
    rows["validation"][0]["label_value"] = [1, 2, 3]
    path.write_text(json.dumps(rows))
    assert scored(path, "kits23", KIDNEY_FOUND, KITS_VALUES).scores == apart


@pytest.mark.parametrize(("preset", "chosen"), EVERY_CLASS, ids=NAMES)
def test_every_tolerance_is_that_of_its_class(preset: Any, chosen: ScoringClass) -> None:
    if chosen.tolerance is None:
        assert preset.name == "word"
        return
    truth, predicted = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    truth[4:12], predicted[5:13] = True, True  # moved by one voxel: the end faces are one spacing apart
    for share, within in ((0.999, True), (1.001, False)):
        spacing = (chosen.tolerance * share, 1.0, 1.0)
        found = score_class(predicted, truth, chosen, preset, case="c", spacing=spacing)
        assert found.surface_dice is not None and (found.surface_dice == 1) == within
        assert found.dice == (2 * 7) / 16


def test_tolerances_of_the_organisers() -> None:
    kits = [round(c.tolerance or 0, 4) for c in PRESETS["kits23"].classes]
    assert kits == [1.0331, 1.1329, 1.1498]
    flare = {c.name: c.tolerance for c in PRESETS["flare22"].classes}
    assert flare == {
        "liver": 5, "right kidney": 3, "spleen": 3, "pancreas": 5, "aorta": 2, "inferior vena cava": 2,
        "right adrenal gland": 2, "left adrenal gland": 2, "gallbladder": 2, "esophagus": 3, "stomach": 5,
        "duodenum": 7, "left kidney": 3,
    }  # fmt: skip
    segrap = {c.name: c.tolerance for c in PRESETS["segrap"].classes}
    assert {n: t for n, t in segrap.items() if t != 1} == {"larynx": 2, "oral cavity": 3}
    tasks = {(c.group, c.tolerance) for c in PRESETS["msd"].classes}
    assert tasks == {
        ("Task03_Liver", 7), ("Task06_Lung", 2), ("Task07_Pancreas", 5), ("Task08_HepaticVessel", 3),
        ("Task09_Spleen", 3), ("Task10_Colon", 4),
    }  # fmt: skip


def test_surface_dice_of_two_voxels_by_hand() -> None:
    # Of the 8 corners of each voxel, 4 are 1 mm and 4 are 2 mm from the other voxel's; all have equal areas.
    assert one("kits23", "tumor", on_line(v1=range(2, 3)), on_line(v1=range(1))).surface_dice == 0.5
    assert one("flare22", "spleen", on_line(v1=range(2, 3)), on_line(v1=range(1))).surface_dice == 1


def test_hausdorff_distance_of_word_pools_both_surfaces() -> None:
    truth, predicted = on_line(v1=range(19)), on_line(v1=range(19))
    assert one("word", "liver", on_line(v1=range(3, 4)), on_line(v1=range(1)), (2, 1, 1)).hd95_mm == 6
    predicted[0, 2, 9] = 1
    # 38 of 39 distances are 0: position 0.95 x 38 = 36.1. Of the 20 of the prediction alone, 0.05 x 4 remain.
    assert pooled_hd95(predicted > 0, truth > 0, spacing=(1, 1, 1)) == 0
    apart = surface_scores(predicted > 0, truth > 0, spacing=(1, 1, 1), tolerance=1)[1]
    assert apart == pytest.approx(0.2, abs=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_empty_masks(preset: str) -> None:
    name = PRESETS[preset].classes[0].name
    empty, full = np.zeros(SHAPE), on_line(v1=range(4))
    worst = (0.0, None, 50.0) if preset == "word" else (0.0, 0.0, None)
    for predicted, truth in ((empty, full), (full, empty)):
        found = one(preset, name, predicted, truth)
        assert (found.dice, found.surface_dice, found.hd95_mm) == worst
    both = one(preset, name, empty, empty)
    assert (both.dice, both.surface_dice, both.hd95_mm) == (worst if preset == "word" else (1.0, 1.0, None))


def test_long_structures_of_flare22_are_scored_in_labelled_planes() -> None:
    truth, predicted = np.zeros(SHAPE), np.zeros(SHAPE)
    truth[3, 2, 2:6] = 1
    predicted[3, 2, :] = 1
    # Planes 2 to 4 agree; the last labelled plane is left out. In all planes, 4 voxels meet 10.
    assert one("flare22", "aorta", predicted, truth).dice == 1
    assert one("flare22", "liver", predicted, truth).dice == 2 * 4 / 14
    predicted[:] = 0
    predicted[3, 2, 5] = 1
    found = one("flare22", "esophagus", predicted, truth)
    assert (found.dice, found.surface_dice) == (0, 0)
    single = one("flare22", "aorta", truth, predicted)
    assert (single.dice, single.surface_dice, single.empty) == (None, None, "")
    assert one("flare22", "inferior vena cava", truth, np.zeros(SHAPE)).dice == 0


def test_a_decathlon_case_belongs_to_one_task(tmp_path: Path) -> None:
    liver = write(tmp_path, on_line(v1=range(8), v2=range(8, 10)), {"liver": 1, "liver tumor": 2})
    values = {"liver": 1, "liver tumor": 2, "hepatic vessels": 3}
    found = scored(liver, "msd", on_line(v1=range(10)), values).scores
    # Liver without tumor: 8 true voxels in 10 predicted ones.
    assert {s.name: s.dice for s in found} == {
        "Task03_Liver: liver": 2 * 8 / 18,
        "Task03_Liver: liver tumor": 0,
    }
    rows = json.loads(liver.read_text())
    rows["validation"][0]["label_value"] = [1, 2]
    liver.write_text(json.dumps(rows))
    assert scored(liver, "msd", on_line(v1=range(10)), values).scores == found
    folder = tmp_path / "vessels"
    folder.mkdir()
    vessels = write(folder, on_line(v3=range(8), v2=range(8, 10)), {"hepatic vessels": 3, "liver tumor": 2})
    result = summarise(scored(vessels, "msd", on_line(v3=range(8), v2=range(8, 10)), values))
    assert list(result["groups"]) == ["Task08_HepaticVessel"]
    assert result["classes"]["Task08_HepaticVessel: liver tumor"]["tolerance_mm"] == 3
    assert result["groups"]["Task08_HepaticVessel"]["mean"] == {"dice": 1, "surface_dice": 1}


def test_an_incomplete_challenge_has_no_official_mean(tmp_path: Path) -> None:
    path = write(tmp_path, on_line(v1=range(4), v2=range(4, 8)), {"liver": 1, "spleen": 2})
    found = scored(path, "word", on_line(v1=range(4)), {"liver": 1})
    result = summarise(found)
    group = result["groups"]["WORD"]
    assert (group["classes"], group["scored"], group["complete"]) == (16, 1, False)
    assert group["mean"] == {"dice": None, "hd95_mm": None} and group["mean_of_scored"]["dice"] == 1
    assert result["classes"]["spleen"]["cases_not_predicted"] == 1
    assert result["classes"]["pancreas"]["cases_without_rows"] == 1
    text = table(result)
    assert "1 of 16 classes" in text and "not scored: spleen in 1 cases (not predicted)" in text


def test_an_unpredicted_part_of_a_class_counts_as_empty(tmp_path: Path) -> None:
    path = write(tmp_path, KIDNEY_TRUTH, KITS_VALUES)
    found = scored(path, "kits23", KIDNEY_TRUTH, {"kidney": 1, "kidney tumor": 2})
    assert {s.name: s.dice for s in found.scores}["masses"] == 2 * 4 / 10
    assert found.counted_empty == ("kidney cyst",) and found.unpredicted == {}
    assert "counted as empty: kidney cyst" in table(summarise(found))


def test_a_case_without_a_row_of_the_class_is_not_scored(tmp_path: Path) -> None:
    path = write(tmp_path, KIDNEY_TRUTH, {p: v for p, v in KITS_VALUES.items() if v < 3})
    found = scored(path, "kits23", KIDNEY_TRUTH, KITS_VALUES)
    assert [s.name for s in found.scores] == ["tumor"]
    assert found.without_rows == {"kidney and masses": 1, "masses": 1}


def test_a_missing_prediction_leaves_the_challenge_incomplete(tmp_path: Path) -> None:
    write(tmp_path, KIDNEY_TRUTH, KITS_VALUES)
    cases = cases_of(write(tmp_path, KIDNEY_TRUTH, KITS_VALUES, name="other"))

    def predict(case: Case) -> Prediction | None:
        return Prediction(labels=KIDNEY_TRUTH, values=KITS_VALUES) if case.name == "ct" else None

    source = Source(predict=predict, prompts=None, notes={})
    result = summarise(evaluate_preset(cases, source, PRESETS["kits23"], progress=lambda _: None))
    assert result["cases_without_prediction"] == ["other"]
    assert not result["groups"]["KiTS23"]["complete"]


def test_a_case_of_unpredicted_classes_is_not_predicted(tmp_path: Path) -> None:
    def predict(_: Case) -> Prediction:
        raise AssertionError("predicted for nothing")

    source = Source(predict=predict, prompts=("mandible",), notes={})
    cases = cases_of(write(tmp_path, KIDNEY_TRUTH, KITS_VALUES))
    with pytest.raises(DataError, match=r"no class of KiTS23 can be scored.*predicted: 'mandible'"):
        evaluate_preset(cases, source, PRESETS["kits23"], progress=lambda _: None)


def test_another_datalist_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, on_line(v1=range(4)), {"mandible": 1})
    with pytest.raises(DataError, match=r"no class of KiTS23 can be scored"):
        scored(path, "kits23", on_line(v1=range(4)), {"mandible": 1})


def test_undefined_scores_are_left_out_of_the_mean(tmp_path: Path) -> None:
    path = write(tmp_path, on_line(v5=range(4)), {"aorta": 5})
    labels = np.zeros(SHAPE, np.uint8)
    labels[3, 2, 2:6] = 5
    write(tmp_path, labels, {"aorta": 5}, name="other")
    row = summarise(scored(path, "flare22", labels, {"aorta": 5}))["classes"]["aorta"]
    assert (row["cases"], row["undefined"], row["dice"]) == (2, 1, 1)


def test_classes_are_the_structures_of_the_adaptors() -> None:
    assert tuple(PRESETS) == PRESET_CHOICES
    for preset, prompts in (
        ("flare22", FLARE22.values()),
        ("word", WORD.values()),
        ("segrap", SEGRAP.values()),
    ):
        assert [c.prompts for c in PRESETS[preset].classes] == [(p,) for p in prompts]
    assert {p for c in PRESETS["kits23"].classes for p in c.prompts} == set(KITS.values())
    tasks = {(t, p) for t, table in msd.TASKS.items() for _, p in table.values()}
    assert {(c.group, c.prompts[0]) for c in PRESETS["msd"].classes} == tasks
    assert {"kits", "msd", "segrap", "flare22", "word"} <= set(DATASETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_rules_and_source_are_stored(preset: str) -> None:
    found = rules(PRESETS[preset])
    assert "https://" in found["source"] or "http://" in found["source"]
    assert set(found["both_empty"]) == set(found["one_empty"]) == set(found["metrics"]) and found["rules"]


def _evaluate(folder: Path, *args: object) -> Result:
    base = ["evaluate", "--datalist", folder / "datalist.json", "-o", folder / "out"]
    return CliRunner().invoke(main, [str(a) for a in (*base, *args)])


def test_the_command_prints_and_stores_the_rules(tmp_path: Path) -> None:
    write(tmp_path, KIDNEY_TRUTH, KITS_VALUES)
    (tmp_path / "maps").mkdir()
    write_nifti(tmp_path / "maps" / "ct.nii.gz", KIDNEY_FOUND)
    labels = ",".join(f"{prompt}={value}" for prompt, value in KITS_VALUES.items())
    done = _evaluate(tmp_path, "--predictions", tmp_path / "maps", "--labels", labels, "--preset", "kits23")
    assert done.exit_code == 0, done.output
    assert "| kidney and masses | 1 | 1.033 | 0.8750 |" in done.stdout
    assert "KiTS23 rules, from https://github.com/neheller/kits23" in done.stdout
    assert "not a medical device" in done.stdout
    result = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert result["preset"]["name"] == "kits23" and result["groups"]["KiTS23"]["complete"]
    assert result["groups"]["KiTS23"]["mean"]["dice"] == round((0.875 + 0.8 + 0.5) / 3, 4)
    with (tmp_path / "out" / "scores.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(r["class"], r["dice"]) for r in rows] == [
        ("kidney and masses", "0.875"), ("masses", "0.8"), ("tumor", "0.5")
    ]  # fmt: skip
    assert "# Evaluation by the rules of KiTS23" in (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.parametrize("option", [("--tolerance", 2), ("--worst", 1), ("--lesion", "kidney tumor")])
def test_a_preset_fixes_its_options(tmp_path: Path, option: tuple[str, object]) -> None:
    write(tmp_path, KIDNEY_TRUTH, KITS_VALUES)
    done = _evaluate(tmp_path, "--predictions", tmp_path, "--preset", "kits23", *option)
    assert done.exit_code == 2 and "--preset defines the scores" in done.stderr
