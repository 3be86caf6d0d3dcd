"""A bundle's manifest before the parity gate has spoken."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Sequence

from gcis_export.bundle_writer import NOTICE
from gcis_export.graph.write import INPUT, OUTPUT
from gcis_export.resolve import Resolution
from gcis_export.settings import Settings
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


def draft_manifest(
    checkpoint: Checkpoint,
    resolution: Resolution,
    settings: Settings,
    labels: tuple[Label, ...],
    *,
    name: str,
    graph: Graph,
    entry: FileEntry,
) -> Manifest:
    """Return the manifest without parity report; it lists ONNX Runtime alone until the others passed."""
    config, choices, roi = checkpoint.config, resolution.choices, settings.window.patch_size
    draft_engine = Engine(
        backend="onnx", precision="fp32", file=MODEL_FILE, graph=MODEL_FILE, backend_version="", device="cpu"
    )
    return Manifest(
        name=name,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        notice=NOTICE,
        preprocess=settings.preprocess,
        window=settings.window,
        labels=labels,
        pathways=tuple(
            PromptPathway(prompt=c.prompt, path_selection=c.pathway.one_based, margins=c.margins)
            for c in choices
        ),
        input=Tensor(name=INPUT, shape=(1, 1, *roi)),
        output=Tensor(name=OUTPUT, shape=(1, len(choices), *roi)),
        graphs=(graph,),
        engines=(draft_engine,),
        files=(entry,),
        parity=(),
        provenance=Provenance(
            checkpoint_sha256=checkpoint.sha256,
            text_model=config.text_model,
            text_weights=config.text_weights,
            training=config.provenance,
        ),
        versions=_versions(_VERSIONED),
    )


def _versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
