"""Define fixtures of the training tests: conformance cases and one random text tower per session."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from gcis_runtime.choices import Merging
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet
from gcis_train.text.tower import TextEncoder
from gcis_train.training.allocator import keep_freed_memory
from gcis_train.weights.published import published_name
from tests.support.training_values import CONFORMANCE, RECIPE, ConformanceCase

CASES = ("small", "two_pathways", "small_v09", "two_pathways_v09")

keep_freed_memory()  # forward and backward passes take half the time


@pytest.fixture(scope="session", params=CASES)
def conformance(request: pytest.FixtureRequest) -> ConformanceCase:
    """A conformance case; `_v09` has the weights and the image of the other kind of patch merging."""
    info = json.loads((CONFORMANCE / f"case_{request.param.removesuffix('_v09')}.json").read_text())
    with np.load(CONFORMANCE / f"case_{request.param}.npz") as data:
        answers = dict(data)
    merging: Merging = "v0.9" if request.param.endswith("_v09") else "v2"
    net = GcisNet(
        NetworkConfig(feature_size=info["feature_size"], pathways=info["pathways"], merging=merging)
    )
    state = net.state_dict()
    weights = RECIPE.state_dict(info["routed_shapes"], info["seed"])
    for name, _ in net.named_parameters():
        state[name] = torch.from_numpy(weights[published_name(name, single=False)])
    net.load_state_dict(state)
    image = torch.from_numpy(RECIPE.image(info["roi"], info["batch"], info["seed"]))
    return ConformanceCase(info=info, answers=answers, net=net.eval(), image=image)


@pytest.fixture(scope="session")
def tower() -> TextEncoder:
    """Return the random text tower (63 M parameters), created once per session."""
    return TextEncoder("ViT-B-32-quickgelu", "random")


@pytest.fixture(scope="session")
def tiny_net() -> GcisNet:
    """Return a routed network of two pathways with random weights; tests must not change it."""
    torch.manual_seed(7)
    return GcisNet(NetworkConfig(feature_size=12, pathways=2, text_dim=16)).eval()


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Seed the random state, so that tests do not depend on each other."""
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.random.set_rng_state(state)
