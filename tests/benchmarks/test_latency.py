"""The latency report: one run at toy size through the command, and what its parts say of records."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
from benchmarks.latency_page import page
from benchmarks.latency_plots import draw_accuracy, draw_stages
from benchmarks.latency_record import LatencyRecord, Missing, schema_text
from benchmarks.latency_report import fastest, markdown
from click.testing import CliRunner

from benchmarks import latency, recover
from benchmarks.cli import main
from benchmarks.records import RESULTS
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import Engine
from gcis_runtime.bundles.store import DEMO_FOLDER
from gcis_runtime.demo.phantom import make_phantom
from gcis_runtime.engines.gpu.probe import Driver, Gpu
from gcis_runtime.errors import BundleError
from gcis_runtime.images.nifti import write_volume
from gcis_runtime.images.volume import Volume
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import StaticGcisNet
from gcis_train.nets.pathway import Pathway

SCHEMA = RESULTS.parents[1] / "docs" / "schema" / "latency.v1.schema.json"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of a CT that one window holds."""
    folder = tmp_path_factory.mktemp("report")
    phantom = make_phantom(3, spacing=(6.0, 6.0, 6.0))
    middle = tuple(slice(n // 2 - 12, n // 2 + 12) for n in phantom.ct.shape)
    image = folder / "Doe_Jane.nii.gz"
    write_volume(image, Volume.from_array(phantom.ct[middle], affine=phantom.affine))
    command = ["latency", "--image", str(image), "--no-int8", "--rounds", "1", "--repeats", "1"]
    done = CliRunner().invoke(main, [*command, "--product", "256", "-o", str(folder / "out")])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1].startswith("page: ")
    return folder / "out"


@pytest.fixture(scope="module")
def record(report: Path) -> LatencyRecord:
    (path,) = report.glob("latency_*.json")
    return msgspec.json.decode(path.read_bytes(), type=LatencyRecord)


def test_every_engine_ran_and_agrees_with_pytorch(record: LatencyRecord) -> None:
    names = {row.name: row for row in record.rows} | {m.name: m for m in record.missing}
    assert names.keys() == {"onnx fp32", "openvino fp32", "openvino bf16"}
    for row in record.rows:
        assert row.labels_equal >= (0.9999 if row.precision == "fp32" else 0.995)
        assert row.repeats == 1 and row.windows == 1
        assert sum(s.p50 for s in row.stages.values()) == pytest.approx(row.total.p50, rel=0.5)
        assert 0 < row.start_first_seconds < row.first_result_seconds
        assert row.gflops > 0 and row.ceiling_gflops and row.peak_memory_mb and row.device_memory_mb is None
        assert row.windows_per_second == pytest.approx(1 / row.stages["network"].p50, rel=0.01)
    assert record.reference.peak_memory_mb and record.reference.whole_seconds > 0


def test_the_report_is_whole_and_names_no_patient(report: Path) -> None:
    html = (report / "index.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert len(links) == 4 and all((report / link).is_file() for link in links)
    for picture in ("stages.png", "accuracy.png"):
        assert (report / picture).read_bytes().startswith(b"\x89PNG")
    assert "<h2>What CT</h2>" in html and "24 x 24 x 24 voxels of 6 x 6 x 6 mm: 14 x 14 x 14 cm" in html
    assert "1 of 64 x 64 x 64 voxels of 4 x 4 x 4 mm, which overlap by 50%" in html
    assert "not a medical device" in html and "| onnx fp32 |" in (report / "latency.md").read_text()
    assert not any(b"Doe" in path.read_bytes() for path in report.iterdir())


def test_records_follow_the_published_schema(report: Path) -> None:
    assert SCHEMA.read_text() == schema_text(), "run: python -m benchmarks schema"
    schema = json.loads(SCHEMA.read_text())
    for path in [*report.glob("latency_*.json"), *RESULTS.glob("latency_*.json")]:
        found = json.loads(path.read_text())
        jsonschema.validate(found, schema)
    del found["rows"][0]["labels_equal"]
    with pytest.raises(jsonschema.ValidationError, match="labels_equal"):
        jsonschema.validate(found, schema)


def _with_rows(record: LatencyRecord, *, equal: float, missing: tuple[Missing, ...] = ()) -> LatencyRecord:
    """The record with rows that agree as well as `equal` says, one of them on a GPU."""
    voxels = int(np.prod(record.subject.voxels))
    rows = [
        msgspec.structs.replace(row, labels_equal=equal, voxels_unequal=round((1 - equal) * voxels), dice=1.0)
        for row in record.rows
    ]
    rows[0] = msgspec.structs.replace(
        rows[0], device="cuda:0", ceiling_gflops=None, share_of_ceiling=None, device_memory_mb=900
    )
    return msgspec.structs.replace(record, rows=tuple(rows), missing=missing)


def test_the_page_advises_only_what_is_accurate_enough(record: LatencyRecord, tmp_path: Path) -> None:
    poor = _with_rows(record, equal=0.98, missing=(Missing(name="trt fp16", reason="needs <a GPU>"),))
    text = page(poor, record_name="r.json")
    assert "No engine agrees well enough" in text and "For speed" not in text
    assert "needs &lt;a GPU&gt;" in text
    assert fastest(poor, (0.995, 0.99)) is None
    good = page(_with_rows(record, equal=0.997), record_name="r.json")
    assert "For speed: <code>gcis-run CT.nii.gz --engine" in good and "as exact as PyTorch" not in good
    assert "<th>GPU memory (MB)</th>" in good and "<td>900</td>" in good
    assert "GPU memory (MB)" not in page(record, record_name="r.json")  # nothing to say: no column
    rows = tuple(msgspec.structs.replace(row, dice=0.98) for row in record.rows)
    assert fastest(msgspec.structs.replace(record, rows=rows), (0.995, 0.99)) is None
    assert "- trt fp16 did not run" in markdown(poor)
    for draw in (draw_stages, draw_accuracy):
        draw(poor, tmp_path / "p.png")
        assert (tmp_path / "p.png").stat().st_size > 5000


def test_candidates_are_all_graphs_in_all_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(DEMO_FOLDER)
    cpu = ["onnx fp32", "openvino fp32", "openvino bf16"]
    assert [c.name for c in latency.candidates([bundle, bundle])] == cpu
    gpu = Gpu(index=0, name="GPU", capability=(8, 9), memory=1 << 30)
    monkeypatch.setattr(latency, "probe_driver", lambda: Driver(version="13.0", gpus=(gpu,)))
    trt = Engine(
        backend="trt-rtx", precision="fp16", file="e", graph="model.onnx", backend_version="1", device="8.9"
    )
    manifest = msgspec.structs.replace(bundle.manifest)
    msgspec.structs.force_setattr(manifest, "engines", (*manifest.engines, trt))  # its file is not listed
    both = type(bundle)(folder=bundle.folder, manifest=manifest, sha256="")
    assert [c.name for c in latency.candidates([both])] == [
        *cpu,
        "onnx fp32 on a GPU",
        "trt-rtx fp16 on a GPU",
    ]


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.gcis"
    other.mkdir()
    for file in DEMO_FOLDER.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    text = (other / "manifest.json").read_text()
    (other / "manifest.json").write_text(
        text.replace('"name": "mandible"', '"name": "jaw"').replace('"name":"mandible"', '"name":"jaw"')
    )
    done = CliRunner().invoke(
        main, ["latency", "--bundle", "demo", "--bundle", str(other), "-o", str(tmp_path / "o")]
    )
    assert done.exit_code == 2 and "do not have the same structures" in done.output
    assert not (tmp_path / "o").exists()
    bundle = open_bundle(DEMO_FOLDER)
    paths = [Pathway(tuple(n - 1 for n in p.path_selection)) for p in bundle.manifest.pathways]
    untrained = StaticGcisNet(NetworkConfig(feature_size=12), paths).eval()
    with pytest.raises(BundleError, match=r"does not give its answers; received .* of the largest margin"):
        recover._check(untrained, bundle)
    with pytest.raises(BundleError, match="a graph without decoder_weight"):
        recover._weight({}, "decoder_weight")
