"""Test evaluation, routing tables and phantoms through their commands."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from gcis_runtime.errors import DataError, ImageError
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_train.cli.main import main
from gcis_train.data.datalist import Case, Target, group_cases, read_datalist
from gcis_train.evaluation.evaluate import Prediction, Source, evaluate
from gcis_train.evaluation.worst import WorstCases
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet
from gcis_train.weights import checkpoint

PROMPTS = ("brainstem", "mandible")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    done = CliRunner().invoke(main, ["phantoms", "-o", str(folder), "--count", "2", "--spacing", "8"])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a routed checkpoint with random weights and two prompts."""
    torch.manual_seed(0)
    config = NetworkConfig(feature_size=12, pathways=2, text_dim=8)
    folder = tmp_path_factory.mktemp("checkpoint") / "routed"
    described = checkpoint.CheckpointConfig(
        kind="routed",
        network=config,
        preprocess=PreprocessSpec(orientation="RAS", spacing=(8.0, 8.0, 8.0)),
        window=WindowSpec(patch_size=(64, 64, 64), overlap=0.0),
        prompts=checkpoint.prompt_table(PROMPTS, torch.randn(2, 8)),
        text_weights="random (seed 0)",
    )
    checkpoint.save(folder, described, GcisNet(config).state_dict())
    return folder


def truth(case: Case) -> np.ndarray:
    """Return the label map of a phantom."""
    return np.asanyarray(nib.load(case.targets[0].labels[0]).dataobj)


def source(labels: Callable[[Case], np.ndarray], values: dict[str, int]) -> Source:
    def predict(case: Case) -> Prediction:
        return Prediction(labels=labels(case), values=values)

    return Source(predict=predict, prompts=values.keys(), notes={})


@pytest.fixture(scope="module")
def cases(phantoms: Path) -> tuple[Case, ...]:
    return group_cases(read_datalist(phantoms / "datalist.json").validation, folder=phantoms)


def test_aliases_in_a_datalist_are_scored_under_the_predicted_prompt(cases: tuple[Case, ...]) -> None:
    aliases = {"mandible": "Bone_Mandible", "brainstem": "parotid"}  # the second is another structure

    def renamed(case: Case) -> Case:
        targets = [dataclasses.replace(t, prompt=aliases.get(t.prompt, t.prompt)) for t in case.targets]
        return dataclasses.replace(case, targets=tuple(targets))

    predicted = source(truth, {"mandible": 7, "left parotid gland": 4, "right parotid gland": 3})
    found = evaluate([renamed(case) for case in cases], predicted, progress=lambda _: None)
    assert {s.dice for s in found.scores if s.prompt == "mandible"} == {1.0}
    assert "parotid" in found.unscored and "Bone_Mandible" not in found.unscored
    # The names in a folder of label maps are known only when a map is read.
    on_disk = dataclasses.replace(predicted, prompts=None)
    found = evaluate([renamed(case) for case in cases], on_disk, progress=lambda _: None)
    assert {s.dice for s in found.scores if s.prompt == "mandible"} == {1.0}


def test_a_perfect_segmentation_scores_one_and_an_empty_one_zero(cases: tuple[Case, ...]) -> None:
    values = {"brainstem": 1, "mandible": 7}
    said: list[str] = []
    perfect = evaluate(cases, source(truth, values), progress=said.append)
    assert {s.prompt for s in perfect.scores} == set(values)
    assert all((s.dice, s.surface_dice, s.hd95_mm) == (1, 1, 0) for s in perfect.scores)
    assert perfect.unscored["larynx"] == len(cases) == len(said)
    empty = evaluate(cases, source(lambda case: truth(case) * 0, values), progress=said.append)
    assert all((s.dice, s.hd95_mm, s.empty) == (0, None, "prediction") for s in empty.scores)
    with pytest.raises(DataError, match=r"no labelled structure.*received predictions of \['liver'\]"):
        evaluate(cases, source(truth, {"liver": 1}), progress=said.append)
    with pytest.raises(DataError, match="a different shape"):
        evaluate(cases, source(lambda case: np.zeros((2, 2, 2)), values), progress=said.append)


def test_a_label_elsewhere_than_its_image_is_refused(cases: tuple[Case, ...], tmp_path: Path) -> None:
    image = nib.load(cases[0].image)
    moved = image.affine.copy()
    moved[0, 3] += 3
    nib.save(nib.Nifti1Image(truth(cases[0]), moved), tmp_path / "label.nii.gz")
    target = Target(prompt="mandible", labels=(tmp_path / "label.nii.gz",), values=(7,))
    case = Case(image=cases[0].image, targets=(target,))
    with pytest.raises(ImageError, match=r"label.nii.gz is on a different grid"):
        evaluate([case], source(lambda _: truth(cases[0]), {"mandible": 7}), progress=lambda line: None)


def test_distances_are_those_of_the_files_spacing(tmp_path: Path) -> None:
    """One voxel along the axis of 5 mm, in a file whose axes are permuted."""
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[10:20, 10:20, 10:20] = 1
    affine = np.array([[0, 0, -2, 0], [5, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=float)
    for name in ("ct", "seg"):
        nib.save(nib.Nifti1Image(labels, affine), tmp_path / f"{name}.nii.gz")
    case = Case(
        image=tmp_path / "ct.nii.gz",
        targets=(Target(prompt="cube", labels=(tmp_path / "seg.nii.gz",), values=(1,)),),
    )
    found = evaluate(
        [case], source(lambda _: np.roll(labels, 1, axis=0), {"cube": 1}), progress=lambda line: None
    )
    assert found.scores[0].hd95_mm == pytest.approx(5.0)


def test_the_command_scores_a_checkpoint_and_draws_the_worst_case(
    phantoms: Path, saved: Path, tmp_path: Path
) -> None:
    arguments = ["evaluate", "--checkpoint", str(saved), "--datalist", str(phantoms / "datalist.json")]
    done = CliRunner().invoke(
        main, [*arguments, "-o", str(tmp_path), "--cases", "1", "--device", "cpu", "--tolerance", "3"]
    )
    assert done.exit_code == 0, done.output
    with (tmp_path / "scores.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["prompt"] for row in rows] == list(PROMPTS)
    result = json.loads((tmp_path / "summary.json").read_text())
    assert result["pipeline"] == "pytorch" and result["tolerance_mm"] == 3
    assert result["prompts"]["brainstem"]["cases"] == 1
    assert result["worst_cases"] == ["worst_1_phantom_0_ct.png"]
    assert "not predicted, not scored: 'larynx' (1 rows)" in done.output
    with Image.open(tmp_path / "worst_1_phantom_0_ct.png") as picture:
        assert picture.size[1] > 2 * 360  # two rows of panels
    for extra in (["--bundle", "demo"], ["--labels", "a=1"], ["--predictions", str(tmp_path)]):
        assert CliRunner().invoke(main, [*arguments, "-o", str(tmp_path), *extra]).exit_code == 2
    assert CliRunner().invoke(main, ["evaluate", *arguments[3:], "-o", str(tmp_path)]).exit_code == 2


def test_the_command_scores_label_maps_on_disk(
    phantoms: Path, cases: tuple[Case, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    image = nib.load(cases[1].image)
    nib.save(nib.Nifti1Image(truth(cases[1]), image.affine), folder / f"{cases[1].name}_seg.nii.gz")
    arguments = ["evaluate", "--predictions", str(folder), "--datalist", str(phantoms / "datalist.json")]
    arguments += ["--labels", "mandible=7", "-o", str(tmp_path / "out"), "--worst", "0"]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert (
        refused.output.count("\n") == 1
        and f"no label map for 1 of 2 cases, the first {cases[0].name}" in refused.output
    )
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(main, [*arguments, "--allow-missing"])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert result["mean_dice"] == 1.0 and result["cases_without_prediction"] == [cases[0].name]
    assert list(result["cases"]) == [cases[1].name]


def test_only_the_worst_cases_are_kept_and_drawn(cases: tuple[Case, ...], tmp_path: Path) -> None:
    watcher = WorstCases(1)

    def labels(case: Case) -> np.ndarray:
        return truth(case) if case is cases[0] else np.roll(truth(case), 2, axis=0)

    evaluate(cases, source(labels, {"mandible": 7}), progress=lambda line: None, watcher=watcher)
    assert watcher.write(tmp_path) == [f"worst_1_{cases[1].name}.png"]
    assert [p.name for p in tmp_path.iterdir()] == [f"worst_1_{cases[1].name}.png"]


def test_paths_prints_what_the_network_resolves(saved: Path) -> None:
    done = CliRunner().invoke(main, ["paths", "--checkpoint", str(saved), "--json"])
    assert done.exit_code == 0, done.output
    found = checkpoint.load(saved)
    net = found.routed()
    for row in json.loads(done.stdout):
        pathway = net.resolve(found.embedding(row["prompt"]))
        assert row["path_selection"] == list(pathway.one_based)
        logits = net.route(found.embedding(row["prompt"])).detach().sort(-1, descending=True).values
        assert row["margins"] == pytest.approx((logits[:, 0] - logits[:, 1]).tolist(), abs=1e-3)
    shown = CliRunner().invoke(main, ["paths", "--checkpoint", str(saved), "--prompt", "mandible"])
    assert "mandible" in shown.output
    assert "brainstem" not in shown.output
