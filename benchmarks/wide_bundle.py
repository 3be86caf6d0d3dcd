"""Bundles for measuring memory: many prompts with random weights, or the demo's network on another grid."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec
import torch

from gcis_export.export import Request, export
from gcis_runtime.bundle import open_bundle
from gcis_runtime.manifest import MANIFEST_FILE, encode
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_train.checkpoint import CheckpointConfig, prompt_table, save
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet

_TEXT_DIM = 16


def write_wide_bundle(folder: Path, *, prompts: int, seed: int = 0) -> None:
    """Export a routed network of feature size 12 with random weights: windows of 64, voxels of 1.5 mm.

    Args:
        folder: The bundle to write.
        prompts: How many structures.
        seed: Of weights and embeddings.
    """
    torch.manual_seed(seed)
    config = NetworkConfig(feature_size=12, pathways=6, text_dim=_TEXT_DIM)
    net = GcisNet(config)
    for parameter in net.parameters():
        if parameter.dim() > 1:  # keeps signals alive through the depth
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    names = tuple(f"structure {number + 1}" for number in range(prompts))
    settings = CheckpointConfig(
        kind="routed",
        network=config,
        preprocess=PreprocessSpec(orientation="RAS", spacing=(1.5, 1.5, 1.5)),
        window=WindowSpec(roi=(64, 64, 64)),
        prompts=prompt_table(names, torch.randn(prompts, _TEXT_DIM)),
        text_weights=f"random (seed {seed})",
        provenance={"data": "none: random weights"},
    )
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = Path(temporary) / "checkpoint"
        save(checkpoint, settings, net.state_dict())
        export(
            Request(
                checkpoint=checkpoint,
                prompts=names,
                engines=("onnx", "openvino"),
                windows_per_case=1,
                output=folder,
            )
        )


def copy_bundle(source: Path, folder: Path, *, spacing: float | None) -> None:
    """Copy a bundle; with another spacing its labels mean nothing, and its memory is such a network's."""
    opened = open_bundle(source)
    shutil.copytree(opened.folder, folder)
    if spacing is not None:
        spec = msgspec.structs.replace(opened.manifest.preprocess, spacing=(spacing,) * 3)
        manifest = msgspec.structs.replace(opened.manifest, preprocess=spec)
        (folder / MANIFEST_FILE).write_bytes(encode(manifest))
