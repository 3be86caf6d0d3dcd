"""Test manifests: golden files of each schema version, strict reading, minimal upgrades."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import Manifest, ParityRow, decode, encode, engine_file, graph_file
from gcis_runtime.bundles.store import DEMO_FOLDER
from gcis_runtime.errors import BundleError

DATA = Path(__file__).parents[2] / "data"
V1, V2 = ((DATA / f"golden_manifest_v{version}.json").read_bytes() for version in (1, 2))


def read(document: dict) -> Manifest:
    return decode(json.dumps(document).encode(), source="m.json")


def test_the_golden_manifest_reads_and_writes_back_to_the_same_bytes():
    manifest = decode(V2, source="golden")
    assert encode(manifest) == V2
    assert [g.file for g in manifest.graphs] == ["model.onnx", "model.fp16.onnx", "model.fp32.b4.onnx"]
    assert manifest.model.precision == "fp32"
    assert manifest.engines[-1].settings == {"optimisation level": "5"}
    assert all(row.passed for row in manifest.parity)


def test_a_manifest_of_version_1_becomes_one_of_version_2():
    manifest = decode(V1, source="golden")
    assert manifest.schema_version == 2
    (graph,) = manifest.graphs
    assert (graph.file, graph.precision, graph.batch, graph.weights_dtype) == (
        "model.onnx",
        "fp32",
        1,
        "float16",
    )
    assert (graph.opset, graph.nodes) == (0, 0)
    assert [(e.backend, e.graph, e.batch) for e in manifest.engines] == [
        ("onnx", "model.onnx", 1), ("openvino", "model.onnx", 1),
    ]  # fmt: skip
    assert [(r.stage, r.graph) for r in manifest.parity] == [
        ("PyTorch static", ""), ("ONNX Runtime 1.31.0", "model.onnx"),
    ]  # fmt: skip
    assert all(row.max_rel is None and row.dice is None and row.passed for row in manifest.parity)
    old, new = json.loads(V1), json.loads(encode(manifest))
    for field in set(old) - {"schema_version", "weights_dtype", "engines", "parity"}:
        assert new[field] == old[field], field
    assert decode(encode(manifest), source="again") == manifest


def test_the_shipped_demo_opens():
    assert open_bundle(DEMO_FOLDER).manifest.model.file == "model.onnx"


def broken(version: bytes, *path: object, value: object = None) -> dict:
    """Return a golden manifest with the field at `path` set, or removed if no value is given."""
    document = json.loads(version)
    place = document
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


WRONG = {
    "newer": (broken(V2, "schema_version", value=3), "version 3; expected at most version 2"),
    "none": (broken(V2, "schema_version"), "version 0; expected"),
    "other schema": (broken(V2, "schema", value="other"), "a different schema"),
    "unknown field": (broken(V2, "more", value=1), "unknown field `more`"),
    "unknown field of a graph": (broken(V2, "graphs", 0, "more", value=1), r"`more` - at `\$.graphs"),
    "missing field": (broken(V2, "parity"), "missing required field `parity`"),
    "weights_dtype of 1": (broken(V2, "weights_dtype", value="float32"), "unknown field `weights_dtype`"),
    "1 without weights_dtype": (broken(V1, "weights_dtype"), "missing required field `weights_dtype`"),
    "1 with graphs": (broken(V1, "graphs", value=[]), "unknown field `graphs`"),
    "1 with an engine of 2": (broken(V1, "engines", 0, "batch", value=2), "unknown field `batch`"),
    "1 with a row of 2": (broken(V1, "parity", 0, "dice", value=1.0), "unknown field `dice`"),
    "1 with an unknown field": (broken(V1, "more", value=1), "unknown field `more`"),
    "1 without engines": (broken(V1, "engines"), "Expected `array`"),
    "1 with a word as engine": (broken(V1, "engines", 0, value="onnx"), "Expected `array` of `object`"),
    "no graph": (broken(V2, "graphs", value=[]), "the first graph is not model.onnx"),
    "first graph": (broken(V2, "graphs", 0, "file", value="model.fp16.onnx"), "the first graph is not"),
    "graph twice": (broken(V2, "graphs", 1, value=json.loads(V2)["graphs"][0]), "names a file twice"),
    "graph's name": (broken(V2, "graphs", 2, "batch", value=2), "batch 2 is named 'model.fp32.b4.onnx'"),
    "unlisted graph": (broken(V2, "files", 1), "'model.fp16.onnx' is not among the files"),
    "unlisted engine": (broken(V2, "files", -1), "'engines/.*' is not among the files"),
    "file twice": (broken(V2, "files", 1, "path", value="model.onnx"), "names a file twice"),
    "engine's graph": (broken(V2, "engines", 0, "graph", value="x.onnx"), "'x.onnx', is not among"),
    "engine's batch": (broken(V2, "engines", 0, "batch", value=4), "has batch 4, its graph 1"),
    "compiled graph": (broken(V2, "engines", -1, "file", value="model.fp16.onnx"), "file that a trt-rtx"),
    "row's graph": (broken(V2, "parity", 1, "graph", value="x"), "'x', is not among the graphs"),
    "negative size": (broken(V2, "files", 0, "bytes", value=-1), "`int` >= 0"),
    "label twice": (broken(V2, "labels", 1, "value", value=1), "not distinct"),
    "channels": (broken(V2, "output", "shape", 1, value=3), "3 output channels for 2 labels"),
    "window": (broken(V2, "input", "shape", 2, value=96), "do not end in the window"),
    "pathway's prompt": (broken(V2, "pathways", 0, "prompt", value="x"), "do not name the same prompts"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_follow_the_schema_is_refused_in_one_line(case):
    document, expected = WRONG[case]
    with pytest.raises(BundleError, match=expected) as caught:
        read(document)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("m.json")


def test_files_are_named_by_what_they_are():
    assert graph_file("fp32") == "model.onnx"
    assert graph_file("int8") == "model.int8.onnx"
    assert graph_file("fp32", 4) == "model.fp32.b4.onnx"
    assert engine_file("trt-rtx", "1.7.0", "sm_80+", "fp16") == "engines/trt-rtx-1.7.0-sm_80+-fp16.engine"
    assert engine_file("trt", "11.0", "sm_90", "bf16", 2) == "engines/trt-11.0-sm_90-bf16-b2.engine"


def test_a_row_passes_when_both_limits_hold():
    def row(max_abs, labels):
        return ParityRow(
            stage="s", reference="r", precision="fp32", windows=1, max_abs=max_abs, scale=1.0,
            labels_changed=labels, tolerance_abs=0.1, tolerance_labels=0.01,
        )  # fmt: skip

    assert row(0.1, 0.01).passed
    assert not row(0.11, 0.0).passed and not row(0.0, 0.011).passed and not row(float("nan"), 0.0).passed
