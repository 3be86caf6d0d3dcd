"""Test that the export model computes the same logits as its source network."""

from __future__ import annotations

import copy

import pytest
import torch

from gcis_export.graph.network import ExportNet
from gcis_export.graph.swin import Swin
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.decoder import foreground_logit
from gcis_train.nets.encoder import Encoder
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway
from tests.support.export_cases import KINDS, ROI, randomise

LARGER = [
    ((96, 96, 96), 1),
    ((96, 96, 64), 8),
    ((64, 96, 128), 1),
    ((128, 128, 128), 1),
    ((160, 64, 192), 1),
    ((192, 192, 192), 1),
]


@pytest.mark.parametrize(
    ("roi", "batch"),
    [((64, 64, 64), 1), ((64, 96, 64), 2), *(pytest.param(*c, marks=pytest.mark.slow) for c in LARGER)],
)
@pytest.mark.parametrize("merging", ["v0.9", "v2"])
def test_swin_equals_monai(roi, batch, merging):
    encoder = Encoder(in_channels=1, feature_size=12, merging=merging).eval()
    randomise(encoder)
    image = torch.rand(batch, 1, *roi)
    with torch.no_grad():
        expected = encoder.swin(image, normalize=True)
        answers = Swin(encoder.swin, roi, batch)(image)
    for ours, theirs in zip(answers, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-5


def test_export_model_equals_static_and_routed_network(built):
    """Compare in float64: in float32, rounding alone changes the static logits (up to 12) by 2e-4."""
    case = built.case
    window = case.image[:1].double()
    static, export_model = copy.deepcopy(case.static).double(), copy.deepcopy(built.export_model).double()
    net = copy.deepcopy(case.net).double()
    with torch.no_grad():
        expected, answer = static(window), export_model(window)
        features = net.encoder(window)
        routed = [foreground_logit(net.decoder(features, p)) for p in static.pathways]
    assert (expected - torch.cat(routed, dim=1)).abs().max() <= 1e-12
    assert (answer - expected).abs().max() <= 1e-5


def test_export_model_equals_static_network_in_float32(built):
    with torch.no_grad():
        static = built.case.static(built.case.image)
    assert (built.logits - static).abs().max() <= 1e-4 * static.abs().max()


def test_many_prompts_equal_single_ones(built):
    case = built.case
    window = case.image[:1]
    for channel, pathway in enumerate(case.static.pathways):
        single = StaticGcisNet.resolved(case.net, [pathway]).eval()
        with torch.no_grad():
            logits = ExportNet(single, ROI)(window)
        assert (logits[0, 0] - built.logits[0, channel]).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_n_prompts_equal_n_single_models(kind):
    net = GcisNet(NetworkConfig(feature_size=12, pathways=2)).eval()
    randomise(net)
    pathways = [Pathway(choices) for choices in KINDS[kind]]
    window = torch.rand(1, 1, *ROI)
    with torch.no_grad():
        together = ExportNet(StaticGcisNet.resolved(net, pathways).eval(), ROI)(window)
        for channel, pathway in enumerate(pathways):
            alone = ExportNet(StaticGcisNet.resolved(net, [pathway]).eval(), ROI)(window)
            assert (together[:, channel] - alone[:, 0]).abs().max() <= 1e-5 * alone.abs().max()
    assert (together[:, 0] - together[:, 1]).abs().max() > 0.1  # the two prompts do differ


def test_a_batch_equals_its_windows_one_by_one():
    static = StaticGcisNet(NetworkConfig(feature_size=12), [Pathway((0,) * 7)]).eval()
    randomise(static)
    windows = torch.rand(2, 1, *ROI)
    one, many = ExportNet(static, ROI), ExportNet(static, ROI, batch=2)
    with torch.no_grad():
        expected = torch.cat([one(window[None]) for window in windows])
        assert (many(windows) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_heads_share_a_convolution_and_keep_the_prompts_order():
    a, b = Pathway((0, 0, 0, 0, 0, 0, 0)), Pathway((0, 0, 0, 0, 0, 1, 0))
    pathways = [a, b, Pathway((0, 0, 0, 0, 0, 0, 1))]
    static = StaticGcisNet(NetworkConfig(feature_size=12, pathways=2), pathways).eval()
    randomise(static)
    export_model = ExportNet(static, ROI)
    assert [head.out_channels for head in export_model.heads] == [2, 1]
    window = torch.rand(1, 1, *ROI)
    with torch.no_grad():
        assert (export_model(window) - static(window)).abs().max() <= 1e-4


def test_the_export_model_leaves_the_network_as_it_was(built):
    names = set(built.case.static.state_dict())
    assert {n for n in names if n.startswith("decoder.positions.6.")}  # its own last convolutions
    assert all(p.requires_grad for p in built.case.static.parameters())
