"""Define the bundle while it is being written: folder, manifest so far and parity gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from gcis_export.bundle.writer import write_manifest
from gcis_export.gate.parity import Gate
from gcis_runtime.bundles.manifest import Engine, FileEntry, Graph, Manifest


@dataclass(frozen=True, kw_only=True, eq=False)
class StagedBundle:
    """A bundle in a temporary folder. Each method returns the bundle with one more part in its manifest.

    Attributes:
        folder: Temporary folder that becomes the bundle.
        manifest: Manifest of the parts that have been written.
        gate: Windows, and the comparisons made on them.
    """

    folder: Path
    manifest: Manifest
    gate: Gate

    def with_graph(self, graph: Graph, entry: FileEntry) -> StagedBundle:
        """Return the bundle with one more graph."""
        m = self.manifest
        return self._with(
            msgspec.structs.replace(m, graphs=(*m.graphs, graph), files=(*m.files, entry)),
        )

    def with_engine(self, engine: Engine, entry: FileEntry) -> StagedBundle:
        """Return the bundle with one more compiled engine."""
        m = self.manifest
        return self._with(
            msgspec.structs.replace(m, engines=(*m.engines, engine), files=(*m.files, entry)),
        )

    def with_graph_engines(self, engines: Sequence[Engine]) -> StagedBundle:
        """Return the bundle with these engines, which load an ONNX file directly, in place of the draft's."""
        return self._with(msgspec.structs.replace(self.manifest, engines=tuple(engines)))

    def with_parity(self) -> StagedBundle:
        """Return the bundle with the results of the gate as parity report."""
        return self._with(msgspec.structs.replace(self.manifest, parity=tuple(self.gate.rows)))

    def write(self) -> str:
        """Write the manifest and return its SHA-256, which identifies the bundle."""
        return write_manifest(self.folder, self.manifest)

    def _with(self, manifest: Manifest) -> StagedBundle:
        return replace(self, manifest=manifest)
