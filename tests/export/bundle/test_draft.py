"""Test the provenance and the notes of the manifest that an export drafts."""

from __future__ import annotations

import dataclasses
import json

import msgspec
import pytest

from gcis_export.bundle.draft import Content, draft_manifest
from gcis_export.bundle.labels import make_labels
from gcis_export.bundle.settings import Settings
from gcis_export.export import export
from gcis_export.options import ExportRequest
from gcis_export.resolve import resolve
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import FileEntry, Graph
from gcis_train.nets.config import NetworkConfig
from gcis_train.weights.checkpoint import load, save
from tests.support.export_cases import PROMPTS, TEXT_DIM, write_checkpoint


def _provenance(checkpoint):
    config = checkpoint.config
    content = Content(
        name="b",
        checkpoint=checkpoint,
        resolution=resolve(checkpoint, PROMPTS[:1]),
        settings=Settings(preprocess=config.preprocess, window=config.window),
        labels=make_labels(PROMPTS[:1], ()),
    )
    graph = Graph(file="model.onnx", precision="fp32", opset=20, nodes=1, weights_dtype="float32")
    return draft_manifest(content, graph, FileEntry(path="model.onnx", sha256="0" * 64, bytes=1)).provenance


@pytest.mark.parametrize("merging", ["v0.9", "v2"])
def test_the_manifest_records_the_patch_merging(tmp_path, merging):
    network = NetworkConfig(feature_size=12, pathways=2, text_dim=TEXT_DIM, merging=merging)
    assert _provenance(write_checkpoint(tmp_path / "c", network=network)).merging == merging


def test_an_import_by_an_earlier_version_records_the_published_text_weights(checkpoint):
    config = msgspec.structs.replace(
        checkpoint.config, text_weights="unknown", provenance={"source_kind": "gcis-routed"}
    )
    assert _provenance(dataclasses.replace(checkpoint, config=config)).text_weights == "laion400m_e32"
    assert _provenance(checkpoint).text_weights == "random (seed 0)"


@pytest.mark.slow
def test_an_export_notes_equal_masks_and_an_assumed_patch_merging(tmp_path):
    """Two pathways with equal blocks, in a checkpoint whose import did not record the patch merging."""
    found = write_checkpoint(tmp_path / "c", provenance={"source_kind": "gcis-routed"})
    weights = {n: found.weights[n.replace(".blocks.1.", ".blocks.0.")] for n in found.weights}
    save(tmp_path / "c", found.config, weights)
    file = tmp_path / "c" / "config.json"
    tree = json.loads(file.read_text())
    del tree["network"]["merging"]
    file.write_text(json.dumps(tree))
    request = ExportRequest(
        checkpoint=tmp_path / "c",
        prompts=PROMPTS[:2],
        path_selections=("1,1,1,1,1,1,1", "2,2,2,2,2,2,2"),
        windows_per_case=1,
        output=tmp_path / "b.gcis",
    )
    result = export(request)
    manifest = open_bundle(tmp_path / "b.gcis").manifest
    assert manifest.provenance.merging == "v0.9"
    alike = f"{PROMPTS[0]!r} and {PROMPTS[1]!r} have nearly the same mask: their logits correlate by 1.0000"
    for notes in (manifest.notes, result.notes):
        assert alike in notes
        assert sum("did not record the patch merging; v0.9 is used" in note for note in notes) == 1
    assert load(tmp_path / "c").notes[0] in manifest.notes
