"""Add graphs of several windows per run to a test bundle."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gcis_runtime.bundles.manifest import MANIFEST_FILE, decode, encode
from tests.support.bundles_and_images import file_entry, write_model


def add_batches(folder: Path, *batches: int) -> Path:
    """Add one float32 graph per batch to a bundle of `write_bundle`, and return its folder."""
    manifest = decode((folder / MANIFEST_FILE).read_bytes(), source="test")
    for batch in batches:
        file = f"model.fp32.b{batch}.onnx"
        write_model(folder / file, batch=batch)
        graph = msgspec.structs.replace(manifest.graphs[0], file=file, batch=batch)
        manifest = msgspec.structs.replace(
            manifest,
            graphs=(*manifest.graphs, graph),
            files=(*manifest.files, file_entry(folder, file)),
        )
    (folder / MANIFEST_FILE).write_bytes(encode(manifest))
    return folder
