"""A small text tower with seeded weights goes from the weights file to the report of a run, in words."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from gcis_export.cli import main as export_main
from gcis_runtime import open_bundle
from gcis_runtime.cli.run import main as run_main
from gcis_train.cli.main import main as train_main
from gcis_train.text.prompts import embed_prompts
from gcis_train.text.tower import TextEncoder, _import_open_clip
from gcis_train.weights import checkpoint as checkpoints
from tests.support.export_cases import TEXT_DIM, write_checkpoint
from tests.support.training_values import PROMPTS as BALLS
from tests.support.training_values import write_cases

MODEL = "tiny-text-tower"
TRAINED = ("larynx", "left parotid gland", "right parotid gland")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights file of a text tower with one layer, named after the published tag."""
    folder = tmp_path_factory.mktemp("tower")
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": TEXT_DIM, "vision_cfg": {"layers": 1, "width": 32}, "text_cfg": text}
    (folder / f"{MODEL}.json").write_text(json.dumps(config))
    _import_open_clip().add_model_config(folder / f"{MODEL}.json")
    tower = TextEncoder(MODEL, "random", seed=3)
    save_file(tower._tower.state_dict(), folder / "laion400m_e32.safetensors")
    return folder / "laion400m_e32.safetensors"


def invoke(command, *arguments: object, code: int = 0):
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.slow
def test_from_a_weights_file_to_the_report(weights: Path, tmp_path: Path) -> None:
    table = embed_prompts(TRAINED, model=MODEL, weights=str(weights), seed=0)
    checkpoint = write_checkpoint(
        tmp_path / "c", prompts=table.prompts, text_model=MODEL, text_weights=table.text_weights
    )
    source = ("--checkpoint", checkpoint.folder)

    shown = invoke(train_main, "paths", *source, "--prompt", "parotis links", "--clip-weights", weights)
    assert "left parotid gland" in shown.stdout
    assert "'parotis links' is the trained prompt 'left parotid gland'" in shown.stderr
    shown = invoke(train_main, "paths", *source, "--prompt", "tongue", "--clip-weights", weights)
    assert "not trained with the prompt 'tongue'" in shown.stderr

    target = ("-o", tmp_path / "b.gcis", "--check-windows", 1)
    asked = ("--prompt", "Parotid_L", "--prompt", "tongue", "--clip-weights", weights)
    refused = invoke(export_main, *source, *asked, *target, code=2)
    assert "was not trained with this prompt; received 'tongue'" in refused.output
    refused = invoke(export_main, *source, "--prompt", "parotid", *target, code=2)
    assert "'left parotid gland', 'right parotid gland'" in refused.output
    random = ("--prompt", "tongue", "--clip-weights", "random", "--untrained")
    refused = invoke(export_main, *source, *random, *target, code=2)
    assert "not those that the checkpoint was trained with" in refused.output

    shown = invoke(export_main, *source, *asked, "--untrained", *target)
    assert "note: 'Parotid_L' is the trained prompt 'left parotid gland'" in shown.stdout
    assert "tongue (not trained)" in shown.stdout
    manifest = open_bundle(tmp_path / "b.gcis").manifest
    assert [p.prompt for p in manifest.pathways] == ["left parotid gland", "tongue"]
    assert [p.untrained is True for p in manifest.pathways] == [False, True]
    assert "the network was not trained with the prompt 'tongue'" in (manifest.notes or ())

    values = np.random.default_rng(0).integers(-200, 300, (40, 40, 40)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([4.0, 4, 4, 1])), tmp_path / "ct.nii.gz")
    run = (tmp_path / "ct.nii.gz", "--bundle", tmp_path / "b.gcis", "--engine", "onnx")
    shown = invoke(run_main, *run, "--prompt", "parotis links", "-o", tmp_path / "one.nii.gz")
    assert "note: 'parotis links' is the prompt 'left parotid gland' of the bundle" in shown.stderr
    assert "not trained" not in (tmp_path / "one.json").read_text()
    invoke(run_main, *run, "-o", tmp_path / "two.nii.gz")
    report = json.loads((tmp_path / "two.json").read_text())
    assert "the network was not trained with the prompt 'tongue'" in report["warnings"]
    refused = invoke(run_main, *run, "--prompt", "tonge", "-o", tmp_path / "three.nii.gz", code=2)
    assert "Did you mean 'tongue'?" in refused.output


@pytest.mark.slow
def test_training_uses_the_embeddings_of_a_weights_file(weights: Path, tmp_path: Path) -> None:
    """`pretrain`, `paths`, `finetune` and `upcycle` with the file, and refusals of another tower."""
    options = {
        "network": {"feature_size": 12, "pathways": 2, "text_dim": TEXT_DIM},
        "preprocess": {"orientation": "RAS", "spacing": [2, 2, 2]},
        "window": {"patch_size": [64, 64, 64]},
    }
    (tmp_path / "options.json").write_text(json.dumps(options))
    short = ("--max-epochs", 1, "--windows-per-case", 1, "--no-amp", "--validate-every", 100)
    data = write_cases(tmp_path, 1)
    tower = ("--clip-weights", weights)
    run, single = tmp_path / "run", tmp_path / "single"
    asked = ("--datalist", data, "--config", tmp_path / "options.json", "--text-model", MODEL)
    invoke(train_main, "pretrain", *asked, "--run-dir", run, *tower, *short)
    found = checkpoints.load(run)
    assert found.text_weights == weights.name and found.prompts == BALLS
    expected = TextEncoder(MODEL, str(weights)).embed(BALLS)
    torch.testing.assert_close(torch.stack([found.embedding(p) for p in BALLS]), expected)

    shown = invoke(train_main, "paths", "--checkpoint", run, "--prompt", "Ball_L", "--prompt", "cube", *tower)
    assert "'Ball_L' is the trained prompt 'left ball'" in shown.stderr
    assert "not trained with the prompt 'cube'" in shown.stderr

    (tmp_path / "cube.json").write_text(data.read_text().replace("left ball", "cube"))
    tune = ("finetune", "--checkpoint", run, "--datalist", tmp_path / "cube.json", "--prompt", "cube", *short)
    refused = invoke(train_main, *tune, "--run-dir", single, "--clip-weights", "random", code=2)
    assert "not those that the checkpoint was trained with" in refused.output
    shown = invoke(train_main, *tune, "--run-dir", single, *tower)
    assert "was not trained with 'cube' before" in shown.stderr
    tuned = checkpoints.load(single)
    pathway = found.routed().resolve(TextEncoder(MODEL, str(weights)).embed(["cube"])[0])
    assert tuned.prompts == ("cube",) and tuned.config.path_selections == (pathway.one_based,)

    more = ("--prompt", "cone", *tower, "-o", tmp_path / "up")
    invoke(train_main, "upcycle", "--checkpoint", single, *more)
    assert checkpoints.load(tmp_path / "up").trained_prompts == ("cube",)
    target = ("-o", tmp_path / "cone.gcis", "--check-windows", 1)
    refused = invoke(
        export_main, "--checkpoint", tmp_path / "up", "--prompt", "cone", *tower, *target, code=2
    )
    assert "was not trained with this prompt; received 'cone'" in refused.output
