"""Copy a bundle with another grid or overlap for measurements."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import MANIFEST_FILE, encode


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
