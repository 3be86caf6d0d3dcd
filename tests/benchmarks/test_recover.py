"""Test comparisons with PyTorch in a clean clone: the network of the demo bundle replaces a checkpoint."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks import recover
from benchmarks.cli import main
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.store import find_bundle
from gcis_train.evaluation.evaluate import static_network
from gcis_train.nets.network import StaticGcisNet
from gcis_train.weights import checkpoint as checkpoints


@pytest.fixture(scope="module")
def network() -> StaticGcisNet:
    """Return the network of the demo bundle, recovered once."""
    return recover.recovered(open_bundle(find_bundle("demo")))


@pytest.mark.parametrize(
    ("words", "function"),
    [(["agreement", "--phantom", "1"], "compare")],
)
def test_without_a_checkpoint_the_demo_bundles_own_network_is_taken(
    monkeypatch: pytest.MonkeyPatch, network: StaticGcisNet, words: list[str], function: str
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(recover, "recovered", lambda bundle: asked.append(bundle.name) or network)
    seen: list[Any] = []

    def instead(path: Path, *_: Any, **__: Any) -> None:
        seen.append(checkpoints.load(path))
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module(f"benchmarks.{words[0]}"), function, instead)
    assert CliRunner().invoke(main, words).exit_code == 130
    assert CliRunner().invoke(main, [*words, "--checkpoint", str(seen[0].folder)]).exit_code == 2  # gone
    demo = open_bundle(find_bundle("demo"))
    assert asked == [demo.name]
    assert seen[0].prompts == tuple(label.prompt for label in demo.manifest.labels)
    found = static_network(seen[0])
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), network.parameters(), strict=True))
