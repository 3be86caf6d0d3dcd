"""Add graphs of several windows per run to a test bundle."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gcis_runtime.bundles.manifest import MANIFEST_FILE, decode
from tests.support.bundles_and_images import list_graph, write_model


def add_batches(folder: Path, *batches: int) -> Path:
    """Add one float32 graph per batch to a bundle of `write_bundle`, and return its folder."""
    single = decode((folder / MANIFEST_FILE).read_bytes(), source="test").graphs[0]
    for batch in batches:
        file = f"model.fp32.b{batch}.onnx"
        write_model(folder / file, batch=batch)
        list_graph(folder, msgspec.structs.replace(single, file=file, batch=batch))
    return folder
