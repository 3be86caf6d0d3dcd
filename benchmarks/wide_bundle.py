"""Write bundles for measurements: random weights for many prompts, or a copy with another grid or overlap."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec
import torch

from gcis_export.export import export
from gcis_export.options import ExportRequest
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import MANIFEST_FILE, encode
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet
from gcis_train.weights.checkpoint import CheckpointConfig, prompt_table, save

_TEXT_DIM = 16


def write_wide_bundle(
    folder: Path, *, prompts: int, seed: int = 0, feature_size: int = 12, roi: int = 64
) -> None:
    """Export a routed network with random weights and voxels of 1.5 mm.

    Args:
        folder: Folder of the bundle to write.
        prompts: Number of structures.
        seed: Seed of weights and embeddings.
        feature_size: Channels of the first stage.
        roi: Side of the window in voxels.
    """
    torch.manual_seed(seed)
    config = NetworkConfig(feature_size=feature_size, pathways=6, text_dim=_TEXT_DIM)
    net = GcisNet(config)
    for parameter in net.parameters():
        if parameter.dim() > 1:  # keeps the variance of activations through the depth
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
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
                engines=("onnx", "openvino"),
                windows_per_case=1,
                output=folder,
            )
        )


def copy_bundle(source: Path, folder: Path, *, spacing: float | None, overlap: float | None = None) -> None:
    """Copy a bundle, with another grid or overlap for measurements of cost; its labels are then meaningless.

    Args:
        source: Folder of the bundle.
        folder: Folder of the copy.
        spacing: Voxel size of the network's grid in mm; None keeps that of the bundle.
        overlap: Overlap of windows; None keeps that of the bundle.
    """
    opened = open_bundle(source)
    shutil.copytree(opened.folder, folder)
    manifest = opened.manifest
    if spacing is not None:
        spec = msgspec.structs.replace(manifest.preprocess, spacing=(spacing,) * 3)
        manifest = msgspec.structs.replace(manifest, preprocess=spec)
    if overlap is not None:
        window = msgspec.structs.replace(manifest.window, overlap=overlap)
        manifest = msgspec.structs.replace(manifest, window=window)
    if manifest is not opened.manifest:
        (folder / MANIFEST_FILE).write_bytes(encode(manifest))
