"""Test that a fine-tuned checkpoint is exported by prompt, without CLIP and without its routed source."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from gcis_export import cli
from gcis_runtime import open_bundle
from gcis_runtime.spec import WindowSpec
from gcis_train.data.phantoms import write_phantoms
from gcis_train.options.training import TrainOptions
from gcis_train.text import prompts
from gcis_train.training.finetune import Job, single_task
from gcis_train.training.progress import Progress
from gcis_train.training.run import Run
from gcis_train.weights.checkpoint import Checkpoint, load
from tests.support.export_cases import ROI


@pytest.mark.slow
def test_the_checkpoint_of_a_single_task_exports_by_prompt_without_clip(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoText:
        def __init__(self, *_: object, **__: object) -> None:
            raise AssertionError("CLIP was asked for")

    monkeypatch.setattr(prompts, "TextEncoder", NoText)
    write_phantoms(tmp_path / "data", count=1, seed=3, spacing=(8.0, 8.0, 8.0), training_share=1.0)
    config = checkpoint.config
    assert config.preprocess is not None
    options = TrainOptions(
        network=config.network,
        preprocess=config.preprocess,
        window=WindowSpec(patch_size=ROI),
        windows_per_case=1,
        max_epochs=1,
        warmup_epochs=0,
        amp="none",
    )
    job = Job(
        source=checkpoint,
        datalist=tmp_path / "data" / "datalist.json",
        run=Run(
            options=options,
            run_dir=tmp_path / "run",
            device=torch.device("cpu"),
            progress=Progress(),
        ),
    )
    assert single_task(job, prompt="larynx", path_selection="2,1,2,1,2,1,2").finished
    with pytest.raises(AssertionError, match="CLIP was asked for"):  # the guard itself
        prompts.embeddings_of(checkpoint, ["spleen"], clip_weights="random")
    arguments = ["--checkpoint", str(job.run.run_dir), "--prompt", "larynx", "--engine", "onnx"]
    arguments += ["--check-windows", "1", "-o", str(tmp_path / "larynx.gcis")]
    shown = CliRunner().invoke(cli.main, arguments)
    assert shown.exit_code == 0, shown.output
    manifest = open_bundle(tmp_path / "larynx.gcis").manifest
    assert [p.prompt for p in manifest.pathways] == ["larynx"]
    assert list(manifest.pathways[0].path_selection) == [2, 1, 2, 1, 2, 1, 2]
    assert load(job.run.run_dir).config.kind == "static"
