"""Test checkpoints: round trip, atomic writes, no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from gcis_runtime.errors import CheckpointError, PromptError
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.training.loop import state
from gcis_train.training.loop.run_folder import prune
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import CheckpointConfig, prompt_table
from tests.support.training_values import equal_states

PROMPTS = ("left kidney", "liver")


def _config(net: GcisNet, **changes: Any) -> CheckpointConfig:
    settings: dict[str, Any] = {
        "kind": "routed",
        "network": net.config,
        "preprocess": PreprocessSpec(orientation="RAS"),
        "window": WindowSpec(patch_size=(64, 64, 64)),
        "prompts": prompt_table(PROMPTS, torch.randn(2, 16)),
        "text_weights": "random (seed 0)",
        "provenance": {"epoch": 3},
    }
    return CheckpointConfig(**{**settings, **changes})


@pytest.fixture
def saved(tmp_path: Path, tiny_net: GcisNet) -> Path:
    folder = tmp_path / "ckpt"
    checkpoint.save(folder, _config(tiny_net), tiny_net.state_dict(), {"notes.txt": b"hello"})
    return folder


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_was_saved_is_loaded(saved: Path, tiny_net: GcisNet) -> None:
    embeddings = torch.randn(2, 16)
    config = _config(tiny_net, prompts=prompt_table(PROMPTS, embeddings))
    checkpoint.save(saved, config, tiny_net.state_dict())
    loaded = checkpoint.load(saved)
    assert loaded.config == config
    assert equal_states(loaded.routed(), tiny_net) and not loaded.routed().training
    assert loaded.prompts == PROMPTS
    assert torch.equal(loaded.embedding("liver"), embeddings[1])  # bit for bit through JSON
    assert loaded.sha256 == checkpoint.hash_file(saved / "weights.safetensors")
    assert not (saved / "notes.txt").exists()  # the older checkpoint was replaced whole


def test_static_checkpoints(tmp_path: Path, tiny_net: GcisNet) -> None:
    paths = [Pathway((0,) * 7), Pathway((1,) * 7)]
    static = StaticGcisNet.resolved(tiny_net, paths)
    config = _config(tiny_net, kind="static", path_selections=tuple(p.one_based for p in paths))
    checkpoint.save(tmp_path / "s", config, static.state_dict())
    loaded = checkpoint.load(tmp_path / "s")
    assert equal_states(loaded.static(), static) and loaded.static().pathways == tuple(paths)
    with pytest.raises(CheckpointError, match="expected routed"):
        loaded.routed()


def test_a_routed_checkpoint_is_not_static(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="expected static"):
        checkpoint.load(saved).static()


def test_files_are_json_and_safetensors_only(saved: Path) -> None:
    files = _snapshot(saved)
    assert set(files) == {"config.json", "weights.safetensors", "notes.txt"}
    assert json.loads(files["config.json"])["schema"] == "gcis-checkpoint"
    assert not any(data[:2] in (b"PK", b"\x80\x02", b"\x80\x04") for data in files.values())
    assert [p.name for p in saved.parent.iterdir()] == ["ckpt"]  # nothing temporary is left


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: disk full")]
)
def test_a_failure_while_writing_leaves_the_old_one(
    saved: Path, tiny_net: GcisNet, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    before = _snapshot(saved)

    def fail(tensors: dict[str, torch.Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(CheckpointError, match=r"ckpt cannot be written.*(No space|disk full).*Free space"):
        checkpoint.save(saved, _config(tiny_net), tiny_net.state_dict())
    assert _snapshot(saved) == before
    assert [p.name for p in saved.parent.iterdir()] == ["ckpt"]


def test_an_unwritable_place_is_an_error(tmp_path: Path, tiny_net: GcisNet) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoint.save(tmp_path / "file" / "ckpt", _config(tiny_net), tiny_net.state_dict())


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 0},
        {"schema": "else"},
        {"kind": "other"},
        {"unknown": 1},
        {"network": {"feature_size": 13}},
        {"path_selections": [[1, 1, 1]]},
        {"path_selections": [[1, 1, 1, 1, 1, 1, 9]]},
        {"path_selections": [[0, 1, 1, 1, 1, 1, 1]]},
    ],
)
def test_a_damaged_config_is_an_error(saved: Path, changes: dict[str, Any]) -> None:
    _edit(saved, **changes)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        checkpoint.load(saved)


def test_a_newer_checkpoint_names_the_version_that_wrote_it(saved: Path) -> None:
    _edit(saved, schema_version=99, provenance={"gcis": "7.1"}, new_field=1)
    with pytest.raises(CheckpointError, match=r"written by a newer gcis.*version 99.*\(7\.1\)"):
        checkpoint.load(saved)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe"])
def test_an_unreadable_config_is_an_error(saved: Path, data: bytes) -> None:
    (saved / "config.json").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        checkpoint.load(saved)


def test_damaged_weights_are_an_error(saved: Path) -> None:
    weights = saved / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors cannot be read"):
        checkpoint.load(saved)


def test_weights_of_another_network_are_one_short_line(saved: Path) -> None:
    _edit(saved, network={"feature_size": 24, "pathways": 3, "text_dim": 16})
    with pytest.raises(CheckpointError, match="do not fit") as caught:
        checkpoint.load(saved).routed()
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_a_run_folder_points_to_its_checkpoints(tmp_path: Path, tiny_net: GcisNet) -> None:
    for name, epoch in (("best-1", 1), ("latest-2", 2)):
        config = _config(tiny_net, provenance={"epoch": epoch})
        checkpoint.save(tmp_path / "checkpoints" / name, config, tiny_net.state_dict())
    pointer = tmp_path / "checkpoint.json"
    pointer.write_text('{"best": "checkpoints/best-1", "latest": "checkpoints/latest-2"}')
    assert checkpoint.load(tmp_path).config.provenance["epoch"] == 1
    assert checkpoint.load(tmp_path, prefer="latest").config.provenance["epoch"] == 2
    pointer.write_text('{"latest": "checkpoints/latest-2"}')
    assert checkpoint.find(tmp_path).name == "latest-2"
    prune(tmp_path / "checkpoints", keep={"checkpoints/latest-2"})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["latest-2"]


@pytest.mark.parametrize("pointer", [None, b"{}", b"\xff", b'{"latest": "checkpoints/none"}', b"[1]"])
def test_what_is_no_checkpoint(tmp_path: Path, pointer: bytes | None) -> None:
    if pointer is not None:
        (tmp_path / "checkpoint.json").write_bytes(pointer)
    with pytest.raises(CheckpointError, match=r"is not a checkpoint; expected a folder with config\.json"):
        checkpoint.load(tmp_path)


def test_an_unknown_prompt_names_its_neighbours(saved: Path) -> None:
    with pytest.raises(
        PromptError, match=r"received 'right kidney'.*one of 'left kidney', 'liver'.*Nearest: 'left kidney'"
    ):
        checkpoint.load(saved).embedding("right kidney")


def test_optimiser_state_survives_exactly() -> None:
    def model() -> tuple[torch.nn.Module, torch.optim.AdamW, torch.amp.GradScaler]:
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        return net, torch.optim.AdamW(net.parameters(), lr=0.1), torch.amp.GradScaler("cpu", enabled=True)

    net, optimizer, scaler = model()
    x = torch.randn(5, 3)
    net[0](x).square().mean().backward()  # the second layer has no state, as an unsampled block
    optimizer.step()
    data = state.pack(optimizer, scaler, {"epoch": 2, "best": 0.1 + 0.2})
    export_model, other, fresh = model()
    export_model.load_state_dict(net.state_dict())
    counters = state.unpack(data, other, fresh)
    assert counters == {"epoch": 2, "best": 0.1 + 0.2}
    assert fresh.state_dict() == scaler.state_dict()
    for module, opt in ((net, optimizer), (export_model, other)):
        opt.zero_grad()
        module(x).square().mean().backward()
        opt.step()
    assert equal_states(net, export_model)


@pytest.mark.parametrize("data", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00garbage!", b"x" * 4])
def test_damaged_training_state_is_an_error(data: bytes) -> None:
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    with pytest.raises(CheckpointError, match="damaged or belongs to another network"):
        state.unpack(data, optimizer, torch.amp.GradScaler("cpu", enabled=False))


def test_training_state_of_another_network_is_an_error() -> None:
    def optimizer(layers: int) -> torch.optim.AdamW:
        net = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(layers))
        return torch.optim.AdamW(net.parameters())

    scaler = torch.amp.GradScaler("cpu", enabled=False)
    data = state.pack(optimizer(1), scaler, {})
    with pytest.raises(CheckpointError, match="another network"):
        state.unpack(data, optimizer(2), scaler)


def test_embeddings_are_kept_as_numbers() -> None:
    table = prompt_table(PROMPTS, torch.tensor([[0.1, -1e-30], [3.0, 1e20]]))
    assert [e.prompt for e in table] == list(PROMPTS)
    assert np.array_equal(np.float32(table[0].embedding), np.float32([0.1, -1e-30]))


def test_configurations_are_frozen() -> None:
    config = CheckpointConfig(kind="routed", network=NetworkConfig())
    with pytest.raises(AttributeError):
        config.kind = "static"  # type: ignore[misc]


@pytest.mark.parametrize(("ours", "theirs"), [("v2", "v0.9"), ("v0.9", "v2")])
def test_weights_of_the_other_patch_merging_are_not_loaded(tmp_path: Path, ours: Any, theirs: Any) -> None:
    networks = {m: NetworkConfig(feature_size=12, pathways=2, text_dim=16, merging=m) for m in (ours, theirs)}
    net = GcisNet(networks[theirs])
    checkpoint.save(tmp_path / "c", _config(net), net.state_dict())
    found = checkpoint.load(tmp_path / "c")
    for other in (GcisNet(networks[ours]), StaticGcisNet(networks[ours], [Pathway((0,) * 7)])):
        before = {n: t.clone() for n, t in other.state_dict().items()}
        with pytest.raises(
            CheckpointError, match=f"received {theirs}; expected {ours}. Set --merging {theirs}"
        ):
            found.load_into(other)
        assert all(torch.equal(t, before[n]) for n, t in other.state_dict().items())


@pytest.mark.parametrize("kind", ["gcis-routed", "gcis-single", "swin-unetr"])
def test_an_import_without_merging_has_that_of_the_publication(saved: Path, kind: str) -> None:
    network = {"feature_size": 12, "pathways": 2, "text_dim": 16}
    _edit(saved, network=network, provenance={"source_kind": kind})
    found = checkpoint.load(saved)
    assert found.config.network.merging == "v0.9" and found.routed().config.merging == "v0.9"
    assert "did not record the patch merging" in found.notes[0] and "--merging v2" in found.notes[0]
    for changes in (
        {"network": network, "provenance": {"epoch": 3}},  # trained by this package
        {"network": {**network, "merging": "v2"}, "provenance": {"source_kind": kind}},
    ):
        _edit(saved, **changes)
        assert checkpoint.load(saved).config.network.merging == "v2" and checkpoint.load(saved).notes == ()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_an_error(saved: Path, tiny_net: GcisNet, value: float) -> None:
    state = {n: t.clone() for n, t in tiny_net.state_dict().items()}
    state["encoder.encoder2.conv1.weight"].view(-1)[3] = value
    checkpoint.save(saved, _config(tiny_net), state)
    with pytest.raises(CheckpointError, match=r"not finite; received NaN or infinity in encoder\.encoder2"):
        checkpoint.load(saved)
