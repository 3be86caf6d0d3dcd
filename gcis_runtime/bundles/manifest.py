"""Define the manifest of a bundle, a strict and versioned JSON file, and read, write and validate it.

`docs/bundle_format.md` describes the format. Unknown fields are an error, because this version cannot know
whether they may be ignored.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from gcis_runtime.bundles.manifest_parts import (
    Engine,
    FileEntry,
    Graph,
    Label,
    ParityRow,
    PromptPathway,
    Provenance,
    Strict,
    Tensor,
    WeightsDtype,
)
from gcis_runtime.bundles.manifest_upgrade import upgrade
from gcis_runtime.choices import GRAPH_ENGINES as GRAPH_BACKENDS
from gcis_runtime.choices import EngineName as Backend
from gcis_runtime.choices import Precision
from gcis_runtime.errors import BundleError
from gcis_runtime.schema_version import Head, newer_version
from gcis_runtime.spec import PreprocessSpec, WindowSpec, check_padding
from gcis_runtime.system.json_files import json_bytes

__all__ = [
    "GRAPH_BACKENDS",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "POSITIONS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Backend",
    "Engine",
    "FileEntry",
    "Graph",
    "Label",
    "Manifest",
    "ParityRow",
    "Precision",
    "PromptPathway",
    "Provenance",
    "Tensor",
    "WeightsDtype",
    "decode",
    "encode",
    "engine_file",
    "graph_file",
    "json_schema",
]

SCHEMA: Final = "gcis-bundle"
SCHEMA_VERSION: Final = 2
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
POSITIONS = ("decoder10", "decoder5", "decoder4", "decoder3", "decoder2", "decoder1", "out")


class Manifest(Strict, frozen=True, kw_only=True):
    """Manifest of a bundle: everything except the weights that `gcis-run` needs to segment an image.

    `notes` are findings of the export about the prompts, for display; omitted from files if there are none.
    """

    schema: Literal["gcis-bundle"] = SCHEMA
    schema_version: Literal[2] = SCHEMA_VERSION
    name: str
    created: str
    notice: str
    preprocess: PreprocessSpec
    window: WindowSpec
    labels: tuple[Label, ...]
    pathways: tuple[PromptPathway, ...]
    input: Tensor
    output: Tensor
    graphs: tuple[Graph, ...]
    engines: tuple[Engine, ...]
    files: tuple[FileEntry, ...]
    parity: tuple[ParityRow, ...]
    provenance: Provenance
    versions: dict[str, str]
    notes: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("a bundle needs at least one label")
        values = [label.value for label in self.labels]
        if len(set(values)) != len(values):
            raise ValueError(f"label values {values} are not distinct")
        if [p.prompt for p in self.pathways] != [label.prompt for label in self.labels]:
            raise ValueError("pathways and labels do not name the same prompts in the same order")
        if self.output.shape[1] != len(self.labels):
            raise ValueError(f"{self.output.shape[1]} output channels for {len(self.labels)} labels")
        if self.input.shape[2:] != self.window.patch_size or self.output.shape[2:] != self.window.patch_size:
            raise ValueError(f"graph shapes do not end in the window {self.window.patch_size}")
        check_padding(self.preprocess, self.window)
        _check_files(self)

    @property
    def model(self) -> Graph:
        """The first graph, `model.onnx`."""
        return self.graphs[0]

    def entry(self, path: str) -> FileEntry:
        """Return the size and hash of a listed file.

        Args:
            path: Relative to the bundle's folder, with `/`.

        Raises:
            BundleError: The manifest does not list the file, so that its content was never verified.
        """
        for entry in self.files:
            if entry.path == path:
                return entry
        raise BundleError(
            f"bundle {self.name!r} has no such file",
            received=repr(path),
            expected="a file that its manifest lists",
            fix="Export it again, or fetch it again if it was copied.",
        )


def _check_files(m: Manifest) -> None:
    """Raise if graphs and engines are inconsistent with each other or with the list of files."""
    listed = [f.path for f in m.files]
    if len(set(listed)) != len(listed) or MANIFEST_FILE in listed:
        raise ValueError("`files` names a file twice, or the manifest itself")
    graphs = {g.file: g for g in m.graphs}
    if not m.graphs or m.graphs[0].file != MODEL_FILE:
        raise ValueError(f"the first graph is not {MODEL_FILE}")
    if len(graphs) != len(m.graphs):
        raise ValueError("`graphs` names a file twice")
    for g in m.graphs:
        if g.file != graph_file(g.precision, g.batch):
            raise ValueError(f"a graph of {g.precision}, batch {g.batch} is named {g.file!r}")
    for file in (*graphs, *(e.file for e in m.engines)):
        if file not in listed:
            raise ValueError(f"{file!r} is not among the files")
    _check_engines(m, graphs)


def _check_engines(m: Manifest, graphs: dict[str, Graph]) -> None:
    """Raise if an engine or parity row names a missing graph, or one of another batch size."""
    for e in m.engines:
        if e.graph not in graphs:
            raise ValueError(f"the graph of the {e.backend} engine, {e.graph!r}, is not among the graphs")
        if graphs[e.graph].batch != e.batch:
            raise ValueError(f"the {e.backend} engine has batch {e.batch}, its graph {graphs[e.graph].batch}")
        if (e.file == e.graph) != (e.backend in GRAPH_BACKENDS):
            raise ValueError(f"{e.file!r} is not a file that a {e.backend} engine can load")
    for row in m.parity:
        if row.graph and row.graph not in graphs:
            raise ValueError(f"the graph of parity row {row.stage!r}, {row.graph!r}, is not among the graphs")


def graph_file(precision: Precision, batch: int = 1) -> str:
    """Return the file name of a graph: `model.onnx`, `model.fp16.onnx`, `model.fp32.b4.onnx`."""
    if precision == "fp32" and batch == 1:
        return MODEL_FILE
    return f"model.{precision}.onnx" if batch == 1 else f"model.{precision}.b{batch}.onnx"


def engine_file(backend: Backend, version: str, device: str, precision: Precision, batch: int = 1) -> str:
    """Return the path of a compiled engine in a bundle: `engines/trt-rtx-1.7.0-sm_80+-fp16.engine`."""
    suffix = "" if batch == 1 else f"-b{batch}"
    return f"engines/{backend}-{version}-{device}-{precision}{suffix}.engine"


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON with a final newline."""
    return json_bytes(manifest)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of `manifest.json`, generated from the types that decode it.

    The schema describes the structure only. `decode` also checks the consistency of the parts: every graph is
    listed in the files, there is one pathway per label, ...
    """
    made = msgspec.json.schema(Manifest)
    title = f"manifest.json of a gCIS bundle, schema version {SCHEMA_VERSION}"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title} | made


_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""Exceptions of msgspec for JSON that is malformed, violates the schema, is nested too deep or not UTF-8."""


def decode(data: bytes, *, source: str) -> Manifest:
    """Decode and validate a manifest; a manifest of an older schema version is upgraded.

    Args:
        data: JSON bytes.
        source: Name of the source for error messages.

    Raises:
        BundleError: The data is not JSON, has a different schema or a newer version, or a field is unknown,
            missing or invalid.
    """
    head = _head(data, source)
    if head.schema == SCHEMA and (newer := newer_version(source, head, SCHEMA_VERSION, BundleError)):
        raise newer
    if head.schema != SCHEMA or head.schema_version < 1:
        raise BundleError(
            f"{source} has a different schema",
            received=f"{head.schema!r} version {head.schema_version}",
            expected=f"{SCHEMA!r} version 1 to {SCHEMA_VERSION}",
            fix="Export the checkpoint again.",
        )
    try:
        if head.schema_version == SCHEMA_VERSION:
            return msgspec.json.decode(data, type=Manifest)
        return msgspec.convert(upgrade(msgspec.json.decode(data)), type=Manifest)
    except _UNREADABLE as error:
        raise BundleError(
            f"{source} does not follow the schema", received=str(error), fix="Export the bundle again."
        ) from error


def _head(data: bytes, source: str) -> Head:
    """Return the fields that determine whether the rest of the manifest can be decoded."""
    try:
        return msgspec.json.decode(data, type=Head)
    except _UNREADABLE as error:
        raise BundleError(
            f"{source} is not a bundle manifest", received=str(error), fix="Export the bundle again."
        ) from error
