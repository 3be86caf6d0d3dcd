"""Write the files of a bundle into a temporary folder that replaces the target only on success."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx

from gcis_export.options import Precision
from gcis_runtime.bundles.manifest import (
    MANIFEST_FILE,
    FileEntry,
    Graph,
    Manifest,
    WeightsDtype,
    encode,
    graph_file,
)
from gcis_runtime.errors import OutputError
from gcis_runtime.system.atomic_files import replacing_folder, unwritable
from gcis_runtime.system.rehearsal import check_folder_writable

NOTICE = "Research software, not a medical device: its results are not for diagnosis or treatment."


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Provide a temporary folder next to `target` that replaces it when the block ends without an error.

    An existing bundle is kept until the new one is complete. A target that is not a bundle is not replaced.
    Temporary files of this process, such as those of the INT8 quantiser, are created inside the folder
    meanwhile, so that the next export removes them with the folder if this process is killed.

    Args:
        target: Bundle folder; missing parent folders are created.

    Yields:
        The temporary folder to fill.

    Raises:
        OutputError: The folder cannot be written, or `target` exists and is not a bundle.
    """
    _check_target(target)
    check_folder_writable(target)
    try:
        with replacing_folder(target) as temporary, _temporary_files_in(temporary):
            yield temporary
    except OSError as error:
        raise unwritable(target, error) from error


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Create temporary files of Python and its packages in a subfolder, which is removed afterwards."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix=".temporary.", dir=folder) as inner:
        tempfile.tempdir = inner
        try:
            yield
        finally:
            tempfile.tempdir = before


def write_graph(
    folder: Path,
    model: onnx.ModelProto,
    *,
    weights_dtype: WeightsDtype,
    precision: Precision = "fp32",
    batch: int = 1,
) -> tuple[Graph, FileEntry]:
    """Write an ONNX file, named after its precision and batch size, and return its two manifest entries."""
    data = model.SerializeToString(deterministic=True)
    file = graph_file(precision, batch)
    (folder / file).write_bytes(data)
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    graph = Graph(
        file=file,
        precision=precision,
        batch=batch,
        opset=opset,
        nodes=len(model.graph.node),
        weights_dtype=weights_dtype,
    )
    return graph, file_entry(folder, file)


def file_entry(folder: Path, path: str) -> FileEntry:
    """Return the manifest entry (path, SHA-256, size) of a file in the staged folder."""
    with (folder / path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(path=path, sha256=digest, bytes=(folder / path).stat().st_size)


def write_manifest(folder: Path, manifest: Manifest) -> str:
    """Write `manifest.json` and return its SHA-256, which identifies the bundle."""
    data = encode(manifest)
    (folder / MANIFEST_FILE).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _check_target(target: Path) -> None:
    """Raise if `target` exists and is neither a bundle nor an empty folder."""
    if target.is_dir() and (not any(target.iterdir()) or (target / MANIFEST_FILE).is_file()):
        return
    if target.exists() or target.is_symlink():
        raise OutputError(
            f"{target} exists and is not a bundle",
            expected=f"a new folder, or one with {MANIFEST_FILE}",
            fix="Choose another folder with -o.",
        )
