"""Test foreign weights: contents of each format, and rejected files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from gcis_runtime.errors import CheckpointError
from gcis_train.cli.main import main
from gcis_train.weights import checkpoint
from gcis_train.weights.foreign import import_file, read_foreign
from tests.support.swin_unetr import swin_unetr_state

DATA = Path(__file__).parents[2] / "data" / "conformance"


def published(case: str, kind: str) -> dict[str, Tensor]:
    """Return the conformance weights of a case by published name."""
    from tests.support import recipe

    described = json.loads((DATA / f"case_{case}.json").read_text())
    state = recipe.state_dict(described[f"{kind}_shapes"], described["seed"])
    return {name: torch.from_numpy(value) for name, value in state.items()}


@pytest.fixture(scope="module")
def swin_unetr() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return swin_unetr_state()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_routed_checkpoint_gives_every_tensor(tmp_path: Path, prefix: str) -> None:
    state = published("two_pathways", "routed")
    torch.save({"state_dict": {prefix + n: t for n, t in state.items()}, "epoch": 3}, tmp_path / "routed.pt")
    found = import_file(tmp_path / "routed.pt", tmp_path / "checkpoint")
    assert (found.kind, found.unused, found.missing) == ("gcis-routed", {}, ())
    assert len(found.used) == len(state)
    loaded = checkpoint.load(tmp_path / "checkpoint")
    assert loaded.config.network.pathways == 2
    block = loaded.routed().state_dict()["decoder.positions.3.blocks.1.conv2.weight"]
    assert torch.equal(block, state["decoder3.conv_block_p1.conv2.conv.weight"])
    router = loaded.routed().state_dict()["routers.6.bias"]
    assert torch.equal(router, state["prompt_router.bias"])


def test_a_single_task_checkpoint_becomes_a_static_network(tmp_path: Path) -> None:
    state = published("small", "single")
    torch.save(state, tmp_path / "params.pth")
    found = import_file(tmp_path / "params.pth", tmp_path / "checkpoint", prompt="pancreas")
    assert found.kind == "gcis-single"
    loaded = checkpoint.load(tmp_path / "checkpoint")
    assert loaded.prompts == ("pancreas",)
    assert loaded.config.path_selections == ((1,) * 7,)
    out = loaded.static().state_dict()["decoder.positions.6.blocks.0.weight"]
    assert torch.equal(out, state["out.conv.conv.weight"])


def test_the_self_supervised_encoder_is_read_under_its_own_names(
    tmp_path: Path, swin_unetr: dict[str, Tensor]
) -> None:
    encoder = {n.removeprefix("swinViT."): t for n, t in swin_unetr.items() if n.startswith("swinViT.")}
    theirs = {f"module.swin_vit.{n.replace('linear', 'fc')}": t for n, t in encoder.items()}
    theirs["module.rotation_head.weight"] = torch.zeros(4, 192)
    torch.save({"state_dict": theirs}, tmp_path / "model_swinvit.pt")
    found = read_foreign(tmp_path / "model_swinvit.pt")
    assert found.kind == "swin-encoder"
    assert found.unused == {"module.rotation_head.weight": "no counterpart"}
    assert not [name for name in found.missing if name.startswith("encoder.swin.")]
    assert "encoder.encoder1.conv1.weight" in found.missing
    mlp = found.weights["encoder.swin.layers2.0.blocks.1.mlp.linear2.weight"]
    assert torch.equal(mlp, swin_unetr["swinViT.layers2.0.blocks.1.mlp.linear2.weight"])


def test_a_swin_unetr_checkpoint_gives_its_encoder_and_says_what_does_not_fit(
    tmp_path: Path, swin_unetr: dict[str, Tensor]
) -> None:
    torch.save({"state_dict": swin_unetr}, tmp_path / "btcv.pt")
    found = import_file(tmp_path / "btcv.pt", tmp_path / "checkpoint")
    assert found.kind == "swin-unetr"
    assert "encoder1.layer.conv1.conv.weight" in found.used
    assert "shape" in found.unused["out.conv.conv.weight"]
    with pytest.raises(CheckpointError, match="another kind; received encoder"):
        checkpoint.load(tmp_path / "checkpoint").routed()


def test_a_file_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    state = published("two_pathways", "routed")
    del state["decoder3.conv_block_p1.conv2.conv.weight"]
    torch.save(state, tmp_path / "routed.pt")
    with pytest.raises(CheckpointError, match="is incomplete; received 1 tensors missing"):
        read_foreign(tmp_path / "routed.pt")


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "text.pt").write_text("hello")
    twice = {name: torch.zeros(2) for name in ("module.out.bias", "out.bias")}
    torch.save(twice, tmp_path / "twice.pt")
    for name, message in (
        ("other.pt", "names such as weight"),
        ("module.pt", "more than tensors"),
        ("text.pt", "incomplete or damaged, or not a PyTorch file"),
        ("twice.pt", "two tensors for the same parameter: module.out.bias and out.bias"),
        ("absent.pt", "cannot be read"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_foreign(tmp_path / name)


def test_the_command_reports_and_refuses(tmp_path: Path, swin_unetr: dict[str, Tensor]) -> None:
    torch.save({"state_dict": swin_unetr}, tmp_path / "btcv.pt")
    done = CliRunner().invoke(main, ["import", str(tmp_path / "btcv.pt"), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert "unused   out.conv.conv.weight (shape (14, 12, 1, 1, 1), expected (2, 12, 1, 1, 1))" in done.output
    refused = CliRunner().invoke(main, ["import", str(tmp_path / "no.pt"), "-o", str(tmp_path / "none")])
    assert refused.exit_code == 2
    assert not (tmp_path / "none").exists()
