"""Test upcycling: the routed network has exactly the output of the static network."""

from __future__ import annotations

import pytest
import torch

from gcis_runtime.errors import PromptError
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.decoder import foreground_logit
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway, Spread, next_pathway, spread
from gcis_train.weights.upcycle import ROUTER_GAP, fit_routers, upcycle
from tests.support.training_values import equal_states

SMALL = (64, 32, 32)


@pytest.mark.parametrize("prompts", [1, 5])
def test_the_routed_network_gives_the_static_answers(prompts: int) -> None:
    config = NetworkConfig(feature_size=12, pathways=3, text_dim=16)
    pathways = spread(prompts, pathways=3)
    static = StaticGcisNet(config, pathways).eval()
    embeddings = 5 + torch.randn(prompts, 16)  # a large part in common, as CLIP embeddings have
    routed = upcycle(static, embeddings).eval()
    assert [routed.resolve(e) for e in embeddings] == list(pathways)
    image = torch.rand(1, 1, *SMALL)
    with torch.no_grad():
        logits = static(image)
        features = routed.encoder(image)
        for index, pathway in enumerate(pathways):
            assert torch.equal(
                foreground_logit(routed.decoder(features, pathway)), logits[:, index : index + 1]
            )
    export_model = StaticGcisNet.resolved(routed, pathways)
    assert equal_states(export_model, static)


def test_unused_blocks_are_copies_of_used_ones() -> None:
    config = NetworkConfig(feature_size=12, pathways=4, text_dim=16)
    static = StaticGcisNet(config, [Pathway((1,) * 7), Pathway((1, 1, 1, 1, 1, 1, 0))])
    routed = upcycle(static, torch.randn(2, 16))
    blocks = [list(p.blocks.values()) for p in routed.decoder.positions]
    for block in blocks[0]:
        assert equal_states(block, static.decoder.positions[0].blocks["1"])
    used = [static.decoder.positions[6].blocks[i] for i in ("0", "1")]
    assert equal_states(blocks[6][0], used[0]) and equal_states(blocks[6][2], used[0])
    assert equal_states(blocks[6][1], used[1]) and equal_states(blocks[6][3], used[1])
    assert not equal_states(used[0], used[1])


def test_the_router_gaps_are_the_requested_ones() -> None:
    net = GcisNet(NetworkConfig(feature_size=12, pathways=6, text_dim=64))
    embeddings = torch.randn(20, 64)
    pathways = spread(20, pathways=6)
    fit_routers(net, embeddings, pathways, gap=ROUTER_GAP)
    logits = net.route(embeddings)
    for row, pathway in zip(logits, pathways, strict=True):
        chosen = row[torch.arange(7), torch.tensor(pathway.choices)]
        top = row.topk(2, dim=-1).values
        assert torch.allclose(top[:, 0], chosen)
        assert torch.allclose(top[:, 0] - top[:, 1], torch.full((7,), ROUTER_GAP), atol=1e-3)


def test_embeddings_that_coincide_are_an_error() -> None:
    net = GcisNet(NetworkConfig(feature_size=12, pathways=2, text_dim=8))
    with pytest.raises(PromptError, match="do not distinguish the prompts"):
        fit_routers(net, torch.ones(2, 8), spread(2, pathways=2), gap=4.0)


@pytest.mark.parametrize("prompts", [1, 5])
def test_spread_over_all_positions_gives_the_static_answers(prompts: int) -> None:
    config = NetworkConfig(feature_size=12, pathways=3, text_dim=16)
    static = StaticGcisNet(config, spread(prompts, pathways=3)).eval()
    embeddings = torch.randn(prompts, 16)
    routed = upcycle(static, embeddings, spread="all").eval()
    image = torch.rand(1, 1, *SMALL)
    with torch.no_grad():
        logits, features = static(image), routed.encoder(image)
        pathways = [routed.resolve(e) for e in embeddings]
        for index, pathway in enumerate(pathways):
            answer = foreground_logit(routed.decoder(features, pathway))
            assert torch.equal(answer, logits[:, index : index + 1])
    assert all(len({p.choices[i] for p in pathways}) == min(prompts, 3) for i in range(7))


@pytest.mark.parametrize("where", ["last", "all"])
def test_a_further_prompt_has_a_pathway_of_its_own_and_changes_no_other(where: Spread) -> None:
    config = NetworkConfig(feature_size=12, pathways=3, text_dim=16)
    given = spread(2, pathways=3)
    static, embeddings = StaticGcisNet(config, given).eval(), torch.randn(3, 16)
    routed = upcycle(static, embeddings, spread=where).eval()
    pathways = [routed.resolve(e) for e in embeddings]
    assert len(set(pathways)) == 3
    if where == "last":
        assert pathways == [*given, next_pathway(given, pathways=3)]
    image = torch.rand(1, 1, *SMALL)
    with torch.no_grad():
        known = StaticGcisNet.resolved(routed, pathways[:2])
        assert torch.equal(known(image), static(image))
