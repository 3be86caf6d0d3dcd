"""Build networks of the conformance cases and tiny checkpoints for the export tests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from gcis_export.graph.optimize import restore_float
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import MODEL_FILE
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.choices import Merging
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.weights.checkpoint import Checkpoint, CheckpointConfig, load, prompt_table, save
from gcis_train.weights.published import published_name
from tests.support import recipe

DATA = Path(__file__).parents[1] / "data" / "conformance"
PROMPTS = ("brainstem", "larynx", "mandible")
TEXT_DIM = 8
ROI = (64, 64, 64)
KINDS = {
    "shared": [(0,) * 7, (0, 0, 0, 0, 0, 0, 1)],
    "partly shared": [(0,) * 7, (0, 0, 0, 1, 0, 1, 1)],
    "disjoint": [(0,) * 7, (1,) * 7],
}
"""Choices of two prompts whose pathways share all but the last position, the first three, or nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A conformance case: networks with the recipe's weights, images (B, 1, 64, 64, 64), golden logits."""

    net: GcisNet
    static: StaticGcisNet
    image: torch.Tensor
    golden: dict[str, NDArray[Any]]

    @property
    def prompts(self) -> int:
        return len(self.static.pathways)

    def golden_logits(self) -> NDArray[np.float32]:
        """Return logits (B, prompts, 16, 16, 16) of every fourth voxel."""
        logits = [self.golden[f"logits_{i}"] for i in range(self.prompts)]
        return np.stack([x[:, 1] - x[:, 0] for x in logits], axis=1)

    def golden_foreground(self) -> NDArray[np.bool_]:
        """Return the foreground masks (B, prompts, 64, 64, 64) of the published network."""
        shape = (self.image.shape[0], *self.image.shape[2:])
        count = int(np.prod(shape))
        masks = [np.unpackbits(self.golden[f"foreground_{i}"])[:count] for i in range(self.prompts)]
        return np.stack([m.reshape(shape).astype(bool) for m in masks], axis=1)


def load_case(name: str) -> Case:
    """Build the networks of a conformance case; the suffix `_v09` selects that kind of patch merging."""
    info = json.loads((DATA / f"case_{name.removesuffix('_v09')}.json").read_text())
    merging: Merging = "v0.9" if name.endswith("_v09") else "v2"
    net = GcisNet(
        NetworkConfig(feature_size=info["feature_size"], pathways=info["pathways"], merging=merging)
    ).eval()
    weights = recipe.state_dict(info["routed_shapes"], info["seed"])
    state = net.state_dict()
    for ours in state:
        theirs = published_name(ours, single=False)
        if theirs in weights:
            state[ours] = torch.from_numpy(weights[theirs])
    net.load_state_dict(state)
    count = len(info["path_selection_one_based"])
    embeddings = [torch.from_numpy(recipe.prompt_embedding(i, info["seed"])) for i in range(count)]
    pathways = [net.resolve(e) for e in embeddings]
    assert [list(p.one_based) for p in pathways] == info["path_selection_one_based"]
    image = torch.from_numpy(recipe.image(info["roi"], info["batch"], info["seed"]))
    golden = dict(np.load(DATA / f"case_{name}.npz"))
    return Case(net=net, static=StaticGcisNet.resolved(net, pathways).eval(), image=image, golden=golden)


def randomise(net: torch.nn.Module) -> None:
    """Draw weights with a scale that preserves the signal through all layers."""
    torch.manual_seed(5)
    for parameter in net.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    for block in net.decoder.positions[-1].blocks.values() if hasattr(net, "decoder") else ():
        torch.nn.init.constant_(block.bias[:1], 6.0)  # mostly background, as in a trained network


def write_checkpoint(folder: Path, **changes: Any) -> Checkpoint:
    """Write a routed checkpoint with random weights: feature size 12, two pathways, three prompts."""
    config = NetworkConfig(feature_size=12, pathways=2, text_dim=TEXT_DIM)
    net = GcisNet(config)
    randomise(net)
    fields: dict[str, Any] = {
        "kind": "routed",
        "network": config,
        "preprocess": PreprocessSpec(orientation="RAS", spacing=(4.0, 4.0, 4.0)),
        "window": WindowSpec(patch_size=ROI),
        "prompts": prompt_table(PROMPTS, torch.randn(3, TEXT_DIM)),
        "text_weights": "random (seed 0)",
        "provenance": {"data": "none: random weights"},
    }
    save(folder, CheckpointConfig(**{**fields, **changes}), net.state_dict())
    return load(folder)


def write_static(folder: Path, routed: Checkpoint, *, named: bool = True) -> Checkpoint:
    """Write the static checkpoint of the routed one's first two prompts."""
    net = routed.routed()
    pathways = [net.resolve(routed.embedding(p)) for p in PROMPTS[:2]]
    config = CheckpointConfig(
        kind="static",
        network=routed.config.network,
        preprocess=routed.config.preprocess,
        window=routed.config.window,
        prompts=routed.config.prompts[:2] if named else (),
        path_selections=tuple(p.one_based for p in pathways),
    )
    save(folder, config, StaticGcisNet.resolved(net, pathways).state_dict())
    return load(folder)


def cheap_bundle(folder: Path, **options: Any) -> Path:
    """Write the bundle of the runtime tests: one convolution with the structures `bone` and `liver`."""
    from tests.support.bundles_and_images import write_bundle

    return write_bundle(folder, **options)


def demo_graph() -> onnx.ModelProto:
    """Return the graph of the demo bundle with its weights as float32 initializers."""
    return restore_float(onnx.load(open_bundle(find_bundle("demo", ())).file(MODEL_FILE)))
