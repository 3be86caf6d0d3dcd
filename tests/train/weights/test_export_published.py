"""Test the export to the published format: names, round trip, contents of the file, refused networks."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from gcis_runtime.errors import CheckpointError
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_train.cli.main import main
from gcis_train.nets.config import PUBLISHED_TEXT_WEIGHTS, NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import Checkpoint, CheckpointConfig, PromptEntry, prompt_table
from gcis_train.weights.export_published import export_published, published_state
from gcis_train.weights.foreign import import_file
from tests.support.swin_unetr import swin_unetr_state
from tests.support.training_values import CONFORMANCE, equal_states

NETWORK = NetworkConfig(feature_size=12, pathways=2, merging="v0.9")
PATHWAY = Pathway((0, 1, 1, 0, 1, 0, 1))
OTHER = Pathway((1, 1, 1, 0, 1, 0, 1))


def _routed(
    folder: Path, network: NetworkConfig = NETWORK, *, text_weights: str = PUBLISHED_TEXT_WEIGHTS
) -> Checkpoint:
    torch.manual_seed(5)
    table = prompt_table(["liver"], torch.randn(1, network.text_dim))
    config = CheckpointConfig(kind="routed", network=network, prompts=table, text_weights=text_weights)
    checkpoint.save(folder, config, GcisNet(network).state_dict())
    return checkpoint.load(folder)


def _static(folder: Path, *pathways: Pathway) -> Checkpoint:
    torch.manual_seed(6)
    config = CheckpointConfig(
        kind="static",
        network=NETWORK,
        prompts=tuple(PromptEntry(prompt=f"liver {i}") for i in range(len(pathways))),
        path_selections=tuple(p.one_based for p in pathways),
        preprocess=PreprocessSpec(orientation="RAS"),
        window=WindowSpec(patch_size=(64, 64, 64)),
    )
    checkpoint.save(folder, config, StaticGcisNet(NETWORK, pathways).state_dict())
    return checkpoint.load(folder)


def _command(source: Path, out: Path) -> Result:
    return CliRunner().invoke(main, ["export-published", "--checkpoint", str(source), "-o", str(out)])


def _shapes(state: dict[str, Tensor]) -> dict[str, list[int]]:
    index = "relative_position_index"
    return {name: list(tensor.shape) for name, tensor in state.items() if not name.endswith(index)}


@pytest.mark.parametrize("case", ["small", "two_pathways"])
def test_names_and_shapes_are_those_of_the_published_networks(tmp_path: Path, case: str) -> None:
    info = json.loads((CONFORMANCE / f"case_{case}.json").read_text())
    network = NetworkConfig(feature_size=info["feature_size"], pathways=info["pathways"])
    found = _routed(tmp_path / "routed", network)
    state = published_state(found)
    assert _shapes(state) == info["routed_shapes"]
    theirs = swin_unetr_state(out_channels=2, feature_size=network.feature_size)
    assert {n for n in theirs if n.startswith("swinViT.")} == {n for n in state if n.startswith("swinViT.")}
    single = StaticGcisNet.resolved(found.routed(), [Pathway((network.pathways - 1,) * 7)])
    selections = (single.pathways[0].one_based,)
    config = CheckpointConfig(kind="static", network=network, path_selections=selections)
    checkpoint.save(tmp_path / "single", config, single.state_dict())
    assert _shapes(published_state(checkpoint.load(tmp_path / "single"))) == info["single_shapes"]


def test_a_routed_network_is_imported_unchanged(tmp_path: Path) -> None:
    found = _routed(tmp_path / "routed")
    assert export_published(found, tmp_path / "model.pt") == ()
    back = import_file(tmp_path / "model.pt", tmp_path / "back")
    assert (back.kind, back.unused, back.missing) == ("gcis-routed", {}, ())
    again = checkpoint.load(tmp_path / "back")
    assert again.config.network == NETWORK and equal_states(found.weights, again.weights)
    image, embedding = torch.rand(1, 1, 64, 64, 64), found.embedding("liver")
    with torch.no_grad():
        assert torch.equal(found.routed()(image, embedding), again.routed()(image, embedding))


def test_a_single_task_is_imported_unchanged_from_any_pathway(tmp_path: Path) -> None:
    found = _static(tmp_path / "static", PATHWAY)
    export_published(found, tmp_path / "params.pth")
    import_file(tmp_path / "params.pth", tmp_path / "back", prompt="liver 0")
    again = checkpoint.load(tmp_path / "back")
    assert equal_states(published_state(found), published_state(again))
    image = torch.rand(1, 1, 64, 64, 64)
    with torch.no_grad():
        assert torch.equal(found.static()(image), again.static()(image))


def test_the_file_holds_only_tensors_and_plain_values(tmp_path: Path) -> None:
    export_published(_static(tmp_path / "static", PATHWAY), tmp_path / "params.pth")
    tree = torch.load(tmp_path / "params.pth", weights_only=True)
    assert list(tree) == ["state_dict"] and all(type(t) is Tensor for t in tree["state_dict"].values())
    with zipfile.ZipFile(tmp_path / "params.pth") as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        assert b"gcis" not in archive.read(pickled)


def test_networks_that_the_published_program_lacks_are_refused(tmp_path: Path) -> None:
    two = _static(tmp_path / "two", PATHWAY, OTHER)
    with pytest.raises(CheckpointError, match=r"received static, 2 pathways.*finetune --prompt"):
        export_published(two, tmp_path / "params.pth")
    config = CheckpointConfig(kind="encoder", network=NETWORK)
    checkpoint.save(tmp_path / "encoder", config, two.weights)
    shown = _command(tmp_path / "encoder", tmp_path / "params.pth")
    assert shown.exit_code == 2 and "received encoder" in shown.stderr
    assert not (tmp_path / "params.pth").exists()


def test_the_command_prints_settings_and_warnings(tmp_path: Path) -> None:
    _static(tmp_path / "static", PATHWAY)
    shown = _command(tmp_path / "static", tmp_path / "params.pth")
    assert shown.exit_code == 0, shown.output
    for part in ("single task, feature size 12", "prompts: liver 0", "1 x 1 x 1 mm, -175 to", "window 64"):
        assert part in shown.stdout
    assert "RAS orientation; the published program does not re-orient" in shown.stderr
    own = NetworkConfig(feature_size=12, pathways=2)
    _routed(tmp_path / "routed", own, text_weights="openai")
    shown = _command(tmp_path / "routed", tmp_path / "model.pt")
    assert shown.exit_code == 0 and "text weights 'openai'" in shown.stderr
    assert "patch merging v2; with MONAI 0.9.1" in shown.stderr
