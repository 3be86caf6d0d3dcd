"""Test `gcis-train upcycle`: a static checkpoint as a routed one, with further prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from gcis_train.cli.main import main
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import spread
from gcis_train.training.warmstart import upcycled
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import CheckpointConfig, prompt_table

PROMPTS = ("brainstem", "spinal cord", "mandible")
NETWORK = NetworkConfig(feature_size=12, pathways=2, text_dim=8)


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a static checkpoint with random weights."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("static") / "static"
    pathways = spread(3, pathways=2)
    config = CheckpointConfig(
        kind="static",
        network=NETWORK,
        prompts=prompt_table(PROMPTS, torch.randn(3, 8)),
        path_selections=tuple(p.one_based for p in pathways),
        text_weights="random (seed 0)",
        provenance={"stage": "warm start"},
    )
    checkpoint.save(folder, config, StaticGcisNet(NETWORK, pathways).state_dict())
    return folder


def _run(start: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["upcycle", "--checkpoint", str(start), "-o", str(out), *options])


def test_the_command_writes_a_routed_checkpoint(static: Path, tmp_path: Path) -> None:
    result = _run(static, tmp_path / "routed", "--spread", "all", "--router-gap", "6")
    assert result.exit_code == 0, result.output
    assert "mandible" in result.output and "(6.0)" in result.output
    found = checkpoint.load(tmp_path / "routed")
    assert found.config.kind == "routed" and found.prompts == PROMPTS
    assert found.config.provenance["upcycled"] and "untrained_prompts" not in found.config.provenance
    pathways = [found.routed().resolve(found.embedding(p)) for p in PROMPTS]
    assert all(len({p.choices[i] for p in pathways}) == 2 for i in range(7))
    image = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        theirs = checkpoint.load(static).static()(image)
        assert torch.equal(StaticGcisNet.resolved(found.routed(), pathways)(image), theirs)


def test_further_prompts_are_recorded_as_untrained(static: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checkpoint.load(static)

    def embed(_: object, prompts: tuple[str, ...], *, clip_weights: str | None) -> dict[str, torch.Tensor]:
        assert clip_weights == "random"
        known = {p: found.embedding(p) for p in PROMPTS}
        return {p: known.get(p, torch.ones(8)) for p in prompts}

    monkeypatch.setattr("gcis_train.training.warmstart.embeddings_of", embed)
    config, net = upcycled(found, prompts=("tumour", "mandible"), clip_weights="random")
    assert [entry.prompt for entry in config.prompts] == [*PROMPTS, "tumour"]
    assert config.provenance["untrained_prompts"] == ["tumour"]
    assert len({net.resolve(torch.tensor(entry.embedding)) for entry in config.prompts}) == 4


def test_another_name_of_a_prompt_is_no_further_prompt(static: Path, tmp_path: Path) -> None:
    result = _run(static, tmp_path / "out", "--prompt", "Unterkiefer", "--clip-weights", "random")
    assert result.exit_code == 2 and "Omit it, and use 'mandible'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_errors_are_one_line(static: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = _run(static, out, "--prompt", "tumour")  # its embedding needs the text weights
    assert result.exit_code == 2 and "'tumour'" in result.stderr and "--clip-weights" in result.stderr
    routed = tmp_path / "routed"
    config = CheckpointConfig(kind="routed", network=NETWORK)
    checkpoint.save(routed, config, GcisNet(NETWORK).state_dict())
    result = _run(routed, out)
    assert result.exit_code == 2 and "expected static" in result.stderr and not out.exists()
    assert len(result.stderr.strip().splitlines()) == 1
