"""Evaluation, routing tables and phantoms as data, through their commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from gcis_runtime.errors import CheckpointError, DataError, PromptError
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_train import checkpoint
from gcis_train.cli import main
from gcis_train.datalist import group_cases, read_datalist
from gcis_train.evaluate import evaluate, summary, table
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet
from gcis_train.prompts import embeddings_of

PROMPTS = ("brainstem", "mandible")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    done = CliRunner().invoke(main, ["phantoms", "-o", str(folder), "--count", "2", "--spacing", "8"])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A routed checkpoint with random weights and two prompts."""
    torch.manual_seed(0)
    config = NetworkConfig(feature_size=12, pathways=2, text_dim=8)
    folder = tmp_path_factory.mktemp("checkpoint") / "routed"
    described = checkpoint.CheckpointConfig(
        kind="routed",
        network=config,
        preprocess=PreprocessSpec(orientation="RAS", spacing=(8.0, 8.0, 8.0)),
        window=WindowSpec(roi=(64, 64, 64), overlap=0.0),
        prompts=checkpoint.prompt_table(PROMPTS, torch.randn(2, 8)),
        text_weights="random (seed 0)",
    )
    checkpoint.save(folder, described, GcisNet(config).state_dict())
    return folder


def test_a_perfect_segmentation_scores_one_and_an_empty_one_zero(phantoms: Path) -> None:
    cases = group_cases(read_datalist(phantoms / "datalist.json").validation, folder=phantoms)

    def truth(image: Path) -> np.ndarray:
        name = image.name.replace("_ct", "_label")
        return np.asanyarray(nib.load(image.parent / name).dataobj)

    values = {"brainstem": 1, "mandible": 7}
    said: list[str] = []
    perfect = evaluate(cases, truth, values, progress=said.append)
    assert {s.prompt for s in perfect} == set(values)
    assert summary(perfect)["mean_dice"] == 1.0
    assert len(said) == len(cases)
    empty = evaluate(cases, lambda image: np.zeros_like(truth(image)), values, progress=said.append)
    assert summary(empty)["mean_dice"] == 0.0
    assert "| mandible | 2 | 1.000 |" in table(summary(perfect))
    with pytest.raises(DataError, match="no labelled structure"):
        evaluate(cases, truth, {"liver": 1}, progress=said.append)
    with pytest.raises(DataError, match="another grid"):
        evaluate(cases, lambda image: np.zeros((2, 2, 2)), values, progress=said.append)


def test_the_command_writes_scores_for_every_labelled_structure(
    phantoms: Path, saved: Path, tmp_path: Path
) -> None:
    arguments = ["evaluate", "--checkpoint", str(saved), "--datalist", str(phantoms / "datalist.json")]
    done = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path), "--cases", "1", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    with (tmp_path / "scores.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["prompt"] for row in rows] == list(PROMPTS)
    result = json.loads((tmp_path / "summary.json").read_text())
    assert result["pipeline"] == "pytorch"
    assert result["prompts"]["brainstem"]["cases"] == 1
    assert CliRunner().invoke(main, [*arguments, "--bundle", "demo", "-o", str(tmp_path)]).exit_code == 2


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


def test_an_unknown_prompt_without_text_weights_lists_the_known_ones(saved: Path) -> None:
    found = checkpoint.load(saved)
    with pytest.raises(PromptError, match=r"one of 'brainstem', 'mandible'.*Nearest: 'mandible'"):
        embeddings_of(found, ["mandibles"], clip_weights=None)
    with pytest.raises(CheckpointError, match="not those of the checkpoint"):
        other = checkpoint.Checkpoint(
            config=checkpoint.msgspec.structs.replace(found.config, text_weights="openai"),
            weights=found.weights,
            sha256=found.sha256,
            folder=found.folder,
        )
        embeddings_of(other, ["liver"], clip_weights="random")
    done = CliRunner().invoke(main, ["paths", "--checkpoint", str(saved), "--prompt", "liver"])
    assert done.exit_code == 2
    assert "Traceback" not in done.output
