"""Patch merging: neighbours of both kinds, whatever version of MONAI is installed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.encoder import Encoder
from gcis_train.nets.network import GcisNet
from gcis_train.nets.patch_merging import PatchMerging


def _placed(merging: Any) -> list[int]:
    """Return the index 100 x + 10 y + z of the neighbour at each of the eight positions."""
    module = PatchMerging(1, merging=merging)
    module.norm = module.reduction = nn.Identity()  # type: ignore[assignment]
    block = torch.tensor([[[0, 1], [10, 11]], [[100, 101], [110, 111]]]).reshape(1, 2, 2, 2, 1)
    return module(block).flatten().tolist()


def test_neighbours_are_those_of_the_two_versions_of_monai() -> None:
    assert _placed("v0.9") == [0, 100, 10, 1, 101, 10, 1, 111]
    assert _placed("v2") == [0, 100, 10, 1, 110, 101, 11, 111]


@pytest.mark.parametrize("merging", ["v0.9", "v2"])
def test_every_stage_of_the_encoder_merges_as_configured(merging: Any) -> None:
    encoder = GcisNet(NetworkConfig(feature_size=12, pathways=1, text_dim=4, merging=merging)).encoder
    stages = [m for m in encoder.modules() if hasattr(m, "downsample")]
    assert len(stages) == 4
    for stage in stages:
        assert isinstance(stage.downsample, PatchMerging) and stage.downsample.merging == merging
    one, two = (Encoder(in_channels=1, feature_size=12, merging=m) for m in ("v0.9", "v2"))
    two.load_state_dict(one.state_dict())
    image = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        maps = zip(one(image), two(image), strict=True)
        assert [torch.equal(a, b) for a, b in maps] == [True, True, False, False, False, False]


def test_a_configuration_without_the_field_is_v2() -> None:
    assert msgspec.json.decode(b'{"feature_size": 12}', type=NetworkConfig).merging == "v2"
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"merging": "v1"}', type=NetworkConfig)


def test_another_number_of_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="3 spatial axes, not 2"):
        PatchMerging(4, spatial_dims=2, merging="v2")
