"""Test the demo bundle: its size, its fp16 graph, and that it is the bundle whose scores are published."""

from __future__ import annotations

import hashlib
import json

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks.graphs import run_operators
from gcis_export.graph.optimize import node_types
from gcis_export.graph.rewrite.apply import SPARING
from gcis_export.precision.compact import compacted
from gcis_export.precision.typed import typed_graph
from gcis_export.precision.variants import convert
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import encode
from gcis_runtime.bundles.store import DEMO_FOLDER
from gcis_runtime.errors import BundleError
from scripts.add_fp16 import add_fp16
from tests.support.export_cases import demo_graph

FILE = "model.fp16.onnx"
MOST_BYTES = 16_000_000


@pytest.fixture(scope="module")
def demo():
    return open_bundle(DEMO_FOLDER)


def test_the_bundle_is_small_enough_for_the_package(demo):
    assert sum(path.stat().st_size for path in DEMO_FOLDER.iterdir()) < MOST_BYTES
    assert {path.name for path in DEMO_FOLDER.iterdir()} == {"manifest.json", "model.onnx", FILE}


def test_the_fp16_graph_is_what_the_exporter_writes_from_the_weights_of_the_bundle(demo):
    shipped = onnx.load_from_string(demo.graph(FILE))
    written = convert(demo_graph(), "fp16", sharing=True)
    assert node_types(shipped) == node_types(written) and shipped.graph.node == written.graph.node
    values = [
        {t.name: (tuple(t.dims), numpy_helper.to_array(t).tobytes()) for t in model.graph.initializer}
        for model in (shipped, written)
    ]
    assert values[0] == values[1]
    shared = sum(tensor.size for tensor in demo.external[FILE])
    assert shared > 0.9 * (demo.manifest.entry("model.onnx").bytes - 1_000_000)


def test_compact_constants_add_no_operator_that_runs_per_window():
    typed = typed_graph(demo_graph(), "fp16", rewrites=SPARING)
    small = compacted(typed)
    assert run_operators(small) == run_operators(typed) <= 310
    assert small.ByteSize() < typed.ByteSize() - 2_000_000


def test_the_row_of_fp16_passed_and_no_engine_is_claimed(demo):
    (row,) = [row for row in demo.manifest.parity if row.graph == FILE]
    assert row.passed and row.precision == "fp16" and row.stage == "fp16 graph, its roundings emulated"
    assert 0 < row.max_rel < 0.02 and row.dice is not None
    assert "fp16" not in {engine.precision for engine in demo.manifest.engines}  # not run on a GPU


def without_fp16(manifest):
    """Return a manifest as it was before the fp16 graph was added."""
    return msgspec.structs.replace(
        manifest,
        graphs=tuple(g for g in manifest.graphs if g.file != FILE),
        files=tuple(f for f in manifest.files if f.path != FILE),
        parity=tuple(r for r in manifest.parity if r.graph != FILE),
    )


@pytest.mark.parametrize("name", ["patients.json", "phantoms.json"])
def test_the_scores_are_those_of_the_bundle_without_its_fp16_graph(demo, name):
    """The graph was added after the evaluation, which used `model.onnx`; nothing else has changed."""
    record = json.loads((DEMO_FOLDER.parents[2] / "examples" / "headneck" / "results" / name).read_text())
    assert record["bundle_sha256"] == hashlib.sha256(encode(without_fp16(demo.manifest))).hexdigest()


def test_a_second_fp16_graph_is_refused(demo, tmp_path):
    with pytest.raises(BundleError, match="cannot be added"):
        add_fp16(demo, tmp_path / "new.gcis")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_script_adds_the_shipped_graph(demo, tmp_path):
    old = tmp_path / "old.gcis"
    old.mkdir()
    (old / "manifest.json").write_bytes(encode(without_fp16(demo.manifest)))
    (old / "model.onnx").write_bytes(demo.read("model.onnx"))
    made = add_fp16(open_bundle(old), tmp_path / "new.gcis")
    new = open_bundle(tmp_path / "new.gcis")
    assert new.manifest == made and new.manifest.files == demo.manifest.files
    rows = [[r for r in b.manifest.parity if r.graph == FILE] for b in (new, demo)]
    assert np.isclose(rows[0][0].max_rel, rows[1][0].max_rel, rtol=0.5) and len(rows[0]) == 1
