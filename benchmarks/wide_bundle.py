"""Write bundles with random weights for measurements."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.coarse_weights import round_weights
from gcis_export.export import export
from gcis_export.options import ExportRequest, Precision
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet
from gcis_train.weights.checkpoint import CheckpointConfig, prompt_table, save

_TEXT_DIM = 16


def write_wide_bundle(
    folder: Path,
    *,
    prompts: int,
    seed: int = 0,
    feature_size: int = 12,
    roi: int = 64,
    engines: tuple[str, ...] = ("onnx", "openvino"),
    precision: Precision = "fp32",
    compressible: bool = False,
) -> None:
    """Export a routed network with random weights and voxels of 1.5 mm.

    Args:
        folder: Folder of the bundle to write.
        prompts: Number of structures.
        seed: Seed of weights and embeddings.
        feature_size: Channels of the first stage.
        roi: Side of the window in voxels.
        engines: Engines of the bundle.
        precision: Precision of a second graph; none for `"fp32"`.
        compressible: Round the weights; see `round_weights`.
    """
    torch.manual_seed(seed)
    config = NetworkConfig(feature_size=feature_size, pathways=6, text_dim=_TEXT_DIM)
    net = GcisNet(config)
    for parameter in net.parameters():
        if parameter.dim() > 1:  # keeps the variance of activations through the depth
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    if compressible:
        round_weights(net)
    names = tuple(f"structure {number + 1}" for number in range(prompts))
    settings = CheckpointConfig(
        kind="routed",
        network=config,
        preprocess=PreprocessSpec(orientation="RAS", spacing=(1.5, 1.5, 1.5)),
        window=WindowSpec(patch_size=(roi, roi, roi)),
        prompts=prompt_table(names, torch.randn(prompts, _TEXT_DIM)),
        text_weights=f"random (seed {seed})",
        provenance={"data": "none: random weights"},
    )
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = Path(temporary) / "checkpoint"
        save(checkpoint, settings, net.state_dict())
        export(
            ExportRequest(
                checkpoint=checkpoint,
                prompts=names,
                engines=engines,
                precision=precision,
                windows_per_case=1,
                output=folder,
            )
        )
