"""Draft the manifest of a bundle from the checkpoint, the resolved pathways and the settings."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from gcis_export.bundle.settings import Settings
from gcis_export.bundle.writer import NOTICE
from gcis_export.graph.write import INPUT, OUTPUT
from gcis_export.resolve import Resolution
from gcis_runtime.bundles.manifest import (
    MODEL_FILE,
    Engine,
    FileEntry,
    Graph,
    Label,
    Manifest,
    PromptPathway,
    Provenance,
    Tensor,
)
from gcis_train.weights.checkpoint import Checkpoint

_VERSIONED = (
    "gcis", "torch", "monai", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "openvino", "tensorrt",
    "tensorrt-rtx",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """Content of a bundle.

    Attributes:
        name: Name of the bundle.
        checkpoint: Checkpoint with the weights.
        resolution: Prompts, pathways and static network.
        settings: Preprocessing and sliding window.
        labels: Labels in the order of the output channels.
    """

    name: str
    checkpoint: Checkpoint
    resolution: Resolution
    settings: Settings
    labels: tuple[Label, ...]


def draft_manifest(content: Content, graph: Graph, entry: FileEntry, notes: tuple[str, ...] = ()) -> Manifest:
    """Return a manifest without parity report whose only engine is ONNX Runtime, not yet checked.

    Args:
        content: Content of the bundle.
        graph: Manifest entry of `model.onnx`.
        entry: File entry of `model.onnx`.
        notes: Findings about the prompts that the bundle records.
    """
    settings, choices = content.settings, content.resolution.choices
    config, size = content.checkpoint.config, settings.window.patch_size
    draft_engine = Engine(
        backend="onnx", precision="fp32", file=MODEL_FILE, graph=MODEL_FILE, backend_version="", device="cpu"
    )
    return Manifest(
        name=content.name,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        notice=NOTICE,
        preprocess=settings.preprocess,
        window=settings.window,
        labels=content.labels,
        pathways=tuple(
            PromptPathway(
                prompt=c.prompt,
                path_selection=c.pathway.one_based,
                router_gaps=c.router_gaps,
                untrained=True if c.untrained else msgspec.UNSET,
            )
            for c in choices
        ),
        input=Tensor(name=INPUT, shape=(1, 1, *size)),
        output=Tensor(name=OUTPUT, shape=(1, len(choices), *size)),
        graphs=(graph,),
        engines=(draft_engine,),
        files=(entry,),
        parity=(),
        provenance=Provenance(
            checkpoint_sha256=content.checkpoint.sha256,
            text_model=config.text_model,
            text_weights=content.checkpoint.text_weights,
            merging=config.network.merging,
            training=config.provenance,
        ),
        versions=_versions(_VERSIONED),
        notes=notes or msgspec.UNSET,
    )


def _versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of the installed packages among `packages`."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
