"""Test that `gcis-train finetune` accepts another text tower only with `--any-clip`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from gcis_train.cli.main import main
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet
from gcis_train.text import prompts
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import CheckpointConfig, prompt_table
from tests.support.training_values import PROMPTS, options, write_cases

NETWORK = NetworkConfig(feature_size=12, pathways=2, text_dim=8)


class Other:
    """Text tower whose embeddings are not those of the checkpoint."""

    dim, weights = 8, "other"

    def __init__(self, model: str, weights: str, *, seed: int = 0) -> None:
        pass

    def embed(self, wanted: Sequence[str]) -> Tensor:
        return torch.ones(len(wanted), self.dim)


@pytest.mark.parametrize("accepted", [False, True])
def test_another_tower_needs_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accepted: bool
) -> None:
    run = options(network=NETWORK)
    config = CheckpointConfig(
        kind="routed",
        network=NETWORK,
        preprocess=run.preprocess,
        window=run.window,
        prompts=prompt_table(["liver"], -torch.ones(1, 8)),
        text_weights="tag",
    )
    checkpoint.save(tmp_path / "routed", config, GcisNet(NETWORK).state_dict())
    monkeypatch.setattr(prompts, "TextEncoder", Other)
    command = ["finetune", "--checkpoint", str(tmp_path / "routed"), "--run-dir", str(tmp_path / "run")]
    command += ["--datalist", str(write_cases(tmp_path, 1)), "--prompt", PROMPTS[0], "--max-epochs", "1"]
    command += ["--clip-weights", "other", "--device", "cpu", *(["--any-clip"] if accepted else [])]
    done = CliRunner().invoke(main, command)
    assert (done.exit_code == 0) == accepted, done.output
    assert ("--any-clip" in done.output) != accepted
    assert (tmp_path / "run" / "metrics.jsonl").exists() == accepted
