"""Test initialisation from other weights: report on every tensor, static networks in all pathways."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import torch

from gcis_runtime.errors import CheckpointError
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import CheckpointConfig, prompt_table
from gcis_train.weights.initialise import initialise, read_source
from gcis_train.weights.text_towers import TextTower, same_tower
from tests.support.swin_unetr import swin_unetr_state

CONFIG = NetworkConfig(feature_size=12, pathways=3, text_dim=16)
PROMPTS = ("liver", "spleen", "cyst")
EMBEDDINGS = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
PATHS = (Pathway((0,) * 7), Pathway((0, 0, 0, 0, 0, 1, 2)))


def _net(seed: int = 5, config: NetworkConfig = CONFIG) -> GcisNet:
    torch.manual_seed(seed)
    return GcisNet(config)


TEXT = TextTower(model="m", weights="tag", prompts=prompt_table(PROMPTS, EMBEDDINGS))


def _save(
    folder: Path, net: GcisNet | StaticGcisNet, prompts: tuple[str, ...], text: TextTower = TEXT
) -> Path:
    static = isinstance(net, StaticGcisNet)
    config = CheckpointConfig(
        kind="static" if static else "routed",
        network=net.config,
        prompts=tuple(entry for entry in text.prompts if entry.prompt in prompts),
        text_model=text.model,
        text_weights=text.weights,
        path_selections=tuple(p.one_based for p in net.pathways) if static else (),
    )
    checkpoint.save(folder, config, net.state_dict())
    return folder


def _start(net: GcisNet | StaticGcisNet, path: Path, gap: float = 9.0):  # type: ignore[no-untyped-def]
    return initialise(
        net, read_source(path), prompts=PROMPTS, embeddings=EMBEDDINGS, text=TEXT, router_gap=gap
    )


def test_a_routed_checkpoint_gives_every_tensor(tmp_path: Path) -> None:
    source, net = _net(1), _net(2)
    report = _start(net, _save(tmp_path / "c", source, PROMPTS))
    assert all(torch.equal(t, net.state_dict()[n]) for n, t in source.state_dict().items())
    assert report.missing == () and report.unused == {} and report.copied == () and report.fitted == ()
    assert report.used == {n: n for n in net.state_dict()}
    assert report.lines() == [f"initialised {len(report.used)} of {len(report.used)} tensors from "
                              f"{tmp_path / 'c'} (routed)"]  # fmt: skip
    assert json.loads(json.dumps(report.as_dict()))["kind"] == "routed"


def test_a_static_checkpoint_fills_every_pathway_and_routes_the_prompts_that_it_knows(tmp_path: Path) -> None:
    torch.manual_seed(3)
    static = StaticGcisNet(CONFIG, PATHS)
    net = _net()
    report = _start(net, _save(tmp_path / "s", static, PROMPTS[:2]), gap=8.0)
    assert [net.resolve(e) for e in EMBEDDINGS[:2]] == list(PATHS)
    assert report.fitted == PROMPTS[:2] and report.missing == () and report.unused == {}
    state, theirs = net.state_dict(), static.state_dict()
    for name, origin in report.used.items():
        assert torch.equal(state[name], theirs[origin])
    # decoder1 has blocks 1 and 2 (0 and 1), out has 0 and 2: what is missing is copied in turn.
    assert (
        report.used["decoder.positions.5.blocks.2.conv1.weight"]
        == "decoder.positions.5.blocks.0.conv1.weight"
    )
    assert report.used["decoder.positions.6.blocks.1.bias"] == "decoder.positions.6.blocks.2.bias"
    assert "decoder.positions.6.blocks.1.bias" in report.copied
    lead = net.route(EMBEDDINGS[:1])[0].topk(2, dim=-1).values
    assert torch.allclose(lead[:, 0] - lead[:, 1], torch.full((7,), 8.0), atol=1e-3)
    assert any("copies of blocks from another pathway" in line for line in report.lines())
    assert any("routers fitted to the pathways of liver, spleen" in line for line in report.lines())


def test_a_single_task_network_answers_alike_along_every_pathway(tmp_path: Path) -> None:
    torch.manual_seed(3)
    static = StaticGcisNet(CONFIG, PATHS[:1]).eval()
    net = _net().eval()
    report = _start(net, _save(tmp_path / "s", static, PROMPTS[:1]))
    assert report.fitted == () and all(n.startswith("routers.") for n in report.missing)
    assert len(report.missing) == 14 and any(
        "14 keep their random initialisation" in line for line in report.lines()
    )
    image = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        features = net.encoder(image)
        answers = [net.decoder(features, Pathway(c)) for c in ((0,) * 7, (2, 1, 0, 2, 1, 0, 2))]
        assert torch.equal(answers[0], answers[1])
        assert torch.equal(answers[0], static.logits(image)[0])


@pytest.mark.parametrize("kind", ["self-supervised", "btcv"])
def test_swin_unetr_files_give_the_encoder(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    theirs = swin_unetr_state()
    if kind == "self-supervised":
        theirs = {n.replace("swinViT", "swin_vit"): t for n, t in theirs.items() if n.startswith("swinViT")}
    torch.save({"state_dict": theirs}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"received v0.9; expected v2. Set --merging v0.9"):
        _start(_net(), tmp_path / "weights.pt")
    config = msgspec.structs.replace(CONFIG, merging="v0.9")
    net, before = _net(config=config), _net(config=config).state_dict()
    report = _start(net, tmp_path / "weights.pt")
    state = net.state_dict()
    stem = "swinViT.patch_embed.proj.weight"
    stem = stem if kind == "btcv" else stem.replace("swinViT", "swin_vit")
    assert torch.equal(state["encoder.swin.patch_embed.proj.weight"], theirs[stem])
    assert not [n for n in report.missing if n.startswith("encoder.swin.")]
    taken = {n.split(".")[0] for n in report.used}
    assert taken == ({"encoder"} if kind == "self-supervised" else {"encoder", "decoder"})
    assert not [n for n in report.used if n.startswith("decoder") and ".blocks." in n]
    for name in report.missing:
        assert torch.equal(state[name], before[name])
    assert set(report.used) | set(report.missing) == set(state)
    if kind == "btcv":
        assert report.unused["out.conv.conv.weight"] == "shape (14, 12, 1, 1, 1), expected (2, 12, 1, 1, 1)"
        assert "encoder.encoder1.conv1.weight" in report.used
    assert report.kind == ("swin-encoder" if kind == "self-supervised" else "swin-unetr")


def test_a_static_target_takes_what_its_pathways_use(tmp_path: Path) -> None:
    source = _net(1)
    static = StaticGcisNet(CONFIG, PATHS)
    report = _start(static, _save(tmp_path / "c", source, PROMPTS))
    assert all(torch.equal(t, source.state_dict()[n]) for n, t in static.state_dict().items())
    assert report.missing == () and report.fitted == ()
    assert "routers.0.weight" in report.unused


def test_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    large = _net(1, NetworkConfig(feature_size=24, pathways=3, text_dim=16))
    with pytest.raises(
        CheckpointError, match=r"this network; received feature size 24; expected feature size 12"
    ):
        _start(_net(), _save(tmp_path / "large", large, PROMPTS))
    wide = StaticGcisNet(CONFIG, PATHS)
    few = _net(1, NetworkConfig(feature_size=12, pathways=2, text_dim=16))
    with pytest.raises(CheckpointError, match=r"more pathways than this network has; received 3.*--pathways"):
        _start(few, _save(tmp_path / "wide", wide, PROMPTS[:2]))
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_source(tmp_path / "none")


def test_a_text_tower_of_another_size_leaves_the_routers(tmp_path: Path) -> None:
    other = _net(1, NetworkConfig(feature_size=12, pathways=3, text_dim=8))
    report = _start(_net(), _save(tmp_path / "c", other, PROMPTS))
    assert set(report.missing) == {f"routers.{i}.weight" for i in range(7)}
    assert report.unused["routers.0.weight"] == "shape (3, 8), expected (3, 16)"


def _tower(weights: str = "tag", model: str = "m", prompts: tuple[str, ...] = (), seed: int = 1) -> TextTower:
    values = torch.randn(len(prompts), 16, generator=torch.Generator().manual_seed(seed))
    return TextTower(model=model, weights=weights, prompts=prompt_table(prompts, values))


@pytest.mark.parametrize(
    "text",
    [
        _tower("other"),
        _tower("other", prompts=("kidney",)),
        _tower(prompts=PROMPTS, seed=2),
        _tower(model="n"),
    ],
    ids=["no table", "no common prompt", "same file name", "other model"],
)
def test_routers_of_another_text_tower_stay_random(tmp_path: Path, text: TextTower) -> None:
    source, net = _net(1), _net(2)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    report = _start(net, _save(tmp_path / "c", source, (*PROMPTS, "kidney"), text))
    routers = {n for n in before if n.startswith("routers.")}
    assert set(report.missing) == routers == set(report.unused)
    assert all(torch.equal(net.state_dict()[n], before[n]) for n in routers)
    assert torch.equal(net.state_dict()[(name := "encoder.encoder1.conv1.weight")], source.state_dict()[name])
    foreign = f"  routers for the text weights {text.weights} of {text.model}"
    assert f"{foreign} cannot use the embeddings of this run, tag of m" in report.lines()


def test_a_common_prompt_identifies_the_text_tower_under_another_name(tmp_path: Path) -> None:
    source, net = _net(1), _net(2)
    text = _tower("copy.pt", prompts=PROMPTS)
    report = _start(net, _save(tmp_path / "c", source, PROMPTS[:1], text))
    assert report.missing == () and report.notes == ()
    assert same_tower(_tower("unknown"), TEXT) and not same_tower(_tower("other"), TEXT)


def test_an_import_by_an_earlier_version_has_the_published_text_weights(tmp_path: Path) -> None:
    config = CheckpointConfig(
        kind="routed", network=CONFIG, text_model="m", provenance={"source_kind": "gcis-routed"}
    )
    checkpoint.save(tmp_path / "c", config, _net(1).state_dict())
    assert read_source(tmp_path / "c").text.weights == "laion400m_e32"
    assert len(_start(_net(2), tmp_path / "c").missing) == 14  # this run has the text weights "tag"
