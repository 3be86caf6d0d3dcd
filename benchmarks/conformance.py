"""Provide conformance cases: networks with deterministic weights and the logits of the published network."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.weights.published import published_name

_DATA = Path(__file__).parents[1] / "tests" / "data" / "conformance"


class Conformance:
    """A conformance case: static network with the weights of the recipe, an image, and expected logits.

    Args:
        name: `"small"` or `"two_pathways"`.
        prompts: Number of prompts to keep, counted from the first; None keeps all.
    """

    def __init__(self, name: str, *, prompts: int | None = None) -> None:
        # Imported by name: the recipe belongs to the tests, which mypy does not check.
        recipe: Any = importlib.import_module("tests.support.recipe")
        info = json.loads((_DATA / f"case_{name}.json").read_text())
        net = GcisNet(NetworkConfig(feature_size=info["feature_size"], pathways=info["pathways"])).eval()
        weights = recipe.state_dict(info["routed_shapes"], info["seed"])
        state = net.state_dict()
        for ours in state:
            theirs = published_name(ours, single=False)
            if theirs in weights:
                state[ours] = torch.from_numpy(weights[theirs])
        net.load_state_dict(state)
        self.prompts = prompts or len(info["path_selection_one_based"])
        embeddings = [torch.from_numpy(recipe.prompt_embedding(i, info["seed"])) for i in range(self.prompts)]
        self.static = StaticGcisNet.resolved(net, [net.resolve(e) for e in embeddings]).eval()
        self.image: NDArray[np.float32] = recipe.image(info["roi"], info["batch"], info["seed"])
        self._golden = dict(np.load(_DATA / f"case_{name}.npz"))

    def compare(self, logits: NDArray[np.float32]) -> dict[str, Any]:
        """Compare logits, (B, prompts, X, Y, Z), with those of the published network."""
        golden = [self._golden[f"logits_{i}"] for i in range(self.prompts)]
        expected = np.stack([x[:, 1] - x[:, 0] for x in golden], axis=1)
        shape = (self.image.shape[0], *self.image.shape[2:])
        size = int(np.prod(shape))
        masks = [np.unpackbits(self._golden[f"foreground_{i}"])[:size] for i in range(self.prompts)]
        foreground = np.stack([m.reshape(shape).astype(bool) for m in masks], axis=1)
        off = float(np.abs(logits[..., ::4, ::4, ::4] - expected).max())
        return {
            "max_difference": off,
            "relative": off / float(np.abs(expected).max()),
            "labels_equal": float(np.mean((logits > 0) == foreground)),
        }
