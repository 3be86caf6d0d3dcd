"""Test `python -m benchmarks latency`: the report of `gcis-bundle latency` with PyTorch as the reference."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
from click.testing import CliRunner

from benchmarks import recover
from benchmarks.cli import main
from benchmarks.records import RESULTS
from gcis_runtime import Volume, write_volume
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.store import DEMO_FOLDER
from gcis_runtime.demo.phantom import make_phantom
from gcis_runtime.errors import BundleError
from gcis_runtime.latency.record import PYTORCH, LatencyRecord
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import StaticGcisNet
from gcis_train.nets.pathway import Pathway

SCHEMA = RESULTS.parents[1] / "docs" / "schema" / "latency.v1.schema.json"


@pytest.mark.slow
def test_engines_are_compared_with_pytorch(tmp_path: Path) -> None:
    phantom = make_phantom(3, spacing=(6.0, 6.0, 6.0))
    middle = tuple(slice(n // 2 - 12, n // 2 + 12) for n in phantom.ct.shape)
    image = tmp_path / "ct.nii.gz"
    write_volume(image, Volume.from_array(phantom.ct[middle], affine=phantom.affine))
    command = ["latency", "--image", str(image), "--no-int8", "--rounds", "1", "--repeats", "1"]
    done = CliRunner().invoke(main, [*command, "--product", "256", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "out").glob("latency_*.json")
    record = msgspec.json.decode(path.read_bytes(), type=LatencyRecord)
    names = {row.name for row in record.rows} | {m.name for m in record.missing}
    assert names == {"onnx fp32", "openvino fp32", "openvino bf16"}
    for row in record.rows:
        assert row.labels_equal >= (0.9999 if row.precision == "fp32" else 0.995)
    assert record.from_pytorch and record.reference.name == PYTORCH
    assert record.reference.peak_memory_mb and record.reference.whole_seconds > 0
    html = (tmp_path / "out" / "index.html").read_text()
    assert "The same network in PyTorch took" in html and "python -m benchmarks latency --bundle" in html


def test_committed_records_follow_the_published_schema() -> None:
    schema = json.loads(SCHEMA.read_text())
    paths = list(RESULTS.glob("latency_*.json"))
    assert paths
    for path in paths:
        jsonschema.validate(json.loads(path.read_text()), schema)
        assert msgspec.json.decode(path.read_bytes(), type=LatencyRecord).from_pytorch


def test_a_network_that_does_not_match_its_bundle_is_refused() -> None:
    bundle = open_bundle(DEMO_FOLDER)
    paths = [Pathway(tuple(n - 1 for n in p.path_selection)) for p in bundle.manifest.pathways]
    untrained = StaticGcisNet(NetworkConfig(feature_size=12), paths).eval()
    with pytest.raises(
        BundleError, match=r"and its graph give different logits; received .* of the largest logit"
    ):
        recover._check(untrained, bundle)
    with pytest.raises(BundleError, match="a graph without decoder_weight"):
        recover._weight({}, "decoder_weight")
