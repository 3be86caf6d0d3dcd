"""Test the network: published logits; static equals routed; shared prefixes equal separate passes."""

from __future__ import annotations

import copy
import importlib.metadata
from typing import Any

import numpy as np
import pytest
import torch

from gcis_runtime.errors import CheckpointError
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.decoder import foreground_logit
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.weights.published import published_name
from tests.support.training_values import ConformanceCase, equal_states

SMALL = (64, 32, 32)
"""The deepest map is 2 x 1 x 1: the smallest window that instance norm accepts."""


def _paths(*choices: str) -> list[Pathway]:
    return [Pathway(tuple(int(c) for c in text)) for text in choices]


def test_routed_and_static_networks_equal_the_published_one(conformance: ConformanceCase) -> None:
    expected = conformance.info["path_selection_one_based"]
    with torch.no_grad():
        features = conformance.net.encoder(conformance.image)
        for index, selection in enumerate(expected):
            pathway = conformance.net.resolve(conformance.embedding(index))
            assert list(pathway.one_based) == selection
            routed = conformance.net.decoder(features, pathway)
            answer = conformance.answers[f"logits_{index}"]
            assert np.abs(routed[..., ::4, ::4, ::4].numpy() - answer).max() <= 3e-4
            bits = np.unpackbits(conformance.answers[f"foreground_{index}"], count=routed[:, 0].numel())
            agree = (routed.argmax(1).numpy().ravel() == bits).mean()
            assert agree > 0.9999
            static = StaticGcisNet.resolved(conformance.net, [pathway])
            assert equal_states(static.encoder, conformance.net.encoder)
            assert (static.decoder(features, pathway) - routed).abs().max() <= 1e-5


def test_the_published_logits_hold_in_double_precision(conformance: ConformanceCase) -> None:
    """Float32 logits of up to 11 differ by 1e-4 between processors; these differences do not.

    The remaining difference is the rounding of the golden float32 logits: 1.9e-4 and 1.4e-4 in the two cases.
    """
    net, image = copy.deepcopy(conformance.net).double(), conformance.image.double()
    with torch.no_grad():
        features = net.encoder(image)
        for index in range(len(conformance.info["path_selection_one_based"])):
            pathway = net.resolve(conformance.embedding(index).double())
            logits = net.decoder(features, pathway)[..., ::4, ::4, ::4].numpy()
            assert np.abs(logits - conformance.answers[f"logits_{index}"]).max() <= 2e-4


def test_forward_is_encoder_decoder_and_the_static_margin(tiny_net: GcisNet) -> None:
    image, embedding = torch.rand(1, 1, *SMALL), torch.randn(16)
    pathway = tiny_net.resolve(embedding)
    assert pathway.choices == tuple(tiny_net.route(embedding).argmax(-1).tolist())
    static = StaticGcisNet.resolved(tiny_net, [pathway])
    with torch.no_grad():
        logits = tiny_net(image, embedding)
        assert torch.equal(logits, tiny_net.decoder(tiny_net.encoder(image), pathway))
        assert (static(image) - foreground_logit(logits)).abs().max() <= 1e-5


def test_parameter_names_map_one_to_one(conformance: ConformanceCase) -> None:
    routed = {published_name(n, single=False): list(p.shape) for n, p in conformance.net.named_parameters()}
    assert routed == conformance.info["routed_shapes"]
    assert len(routed) == len(list(conformance.net.parameters()))
    static = StaticGcisNet.resolved(conformance.net, [conformance.net.resolve(conformance.embedding(0))])
    single = {published_name(n, single=True): list(p.shape) for n, p in static.named_parameters()}
    assert single == conformance.info["single_shapes"]
    assert len(single) == len(list(static.parameters()))


def test_branches_equal_single_passes_and_share_prefixes(tiny_net: GcisNet) -> None:
    pathways = _paths("0000000", "0000001", "0010000", "1111111", "0000000")
    static = StaticGcisNet.resolved(tiny_net, pathways)
    image = torch.rand(1, 1, *SMALL)
    calls: list[int] = []
    blocks = [b for p in static.decoder.positions for b in p.blocks.values()]
    hooks = [b.register_forward_hook(lambda *_: calls.append(1)) for b in blocks]
    with torch.no_grad():
        together = static.logits(image)
        count = len(calls)
        features = tiny_net.encoder(image)
        for pathway, logits in zip(pathways, together, strict=True):
            assert (tiny_net.decoder(features, pathway) - logits).abs().max() <= 1e-6
    for hook in hooks:
        hook.remove()
    # Four distinct pathways: 7 blocks, then 1 more at `out`, 5 more from decoder4 on, 7 more.
    assert count == 7 + 1 + 5 + 7
    assert not torch.equal(together[0], together[1])
    with torch.no_grad():
        assert torch.equal(static(image), torch.cat([x[:, 1:] - x[:, :1] for x in together], dim=1))


def test_static_network_holds_only_used_blocks(tiny_net: GcisNet) -> None:
    static = StaticGcisNet.resolved(tiny_net, _paths("0101010"))
    assert [list(p.blocks) for p in static.decoder.positions] == [[c] for c in "0101010"]
    before = tiny_net.encoder.encoder1.conv1.weight.clone()
    with torch.no_grad():
        static.encoder.encoder1.conv1.weight.zero_()
    assert torch.equal(tiny_net.encoder.encoder1.conv1.weight, before)  # copies, not views


def test_attention_without_gradients_is_fused_and_equal(
    conformance: ConformanceCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, image = copy.deepcopy(conformance.net.encoder).double(), conformance.image.double()
    fused: list[None] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def counted(*args: torch.Tensor, **options: Any) -> torch.Tensor:
        fused.append(None)
        return original(*args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    explicit = encoder.transform(image)
    assert not fused and explicit[0].requires_grad
    with torch.no_grad():
        found = encoder.transform(image)
    # Two blocks in each of four stages; MONAI 1.6.0 has no fused form.
    assert len(fused) == (0 if importlib.metadata.version("monai") == "1.6.0" else 8)
    for one, other in zip(found, explicit, strict=True):
        assert (one - other).abs().max() <= 1e-10


def test_a_pathway_beyond_the_network_is_an_error(tiny_net: GcisNet) -> None:
    with pytest.raises(CheckpointError, match=r"lacks blocks.*indices below 2"):
        StaticGcisNet.resolved(tiny_net, _paths("0000002"))


def test_a_window_of_one_deepest_voxel_is_refused(tiny_net: GcisNet) -> None:
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        tiny_net(torch.rand(1, 1, 32, 32, 32), torch.zeros(16))


def test_gradient_checkpointing_changes_no_gradient() -> None:
    config = NetworkConfig(feature_size=12, pathways=1, text_dim=4)
    nets = [StaticGcisNet(config, _paths("0000000"), checkpoint=flag) for flag in (False, True)]
    nets[1].load_state_dict(nets[0].state_dict())
    image = torch.rand(1, 1, *SMALL)
    for net in nets:
        net(image).square().mean().backward()
    for one, two in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert one.grad is not None and two.grad is not None
        assert torch.allclose(one.grad, two.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "changes", [{"feature_size": 10}, {"feature_size": 0}, {"pathways": 0}, {"out_channels": 3}]
)
def test_impossible_sizes_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        NetworkConfig(**changes)
