"""Test `gcis-bundle`: list, inspect, verify, and report which engines can run."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from gcis_runtime.bundles.manifest import Engine, ParityRow
from gcis_runtime.cli import bundle as bundle_cli
from gcis_runtime.engines import doctor
from gcis_runtime.engines.gpu.probe import Driver
from tests.support import fake_cuda


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    return lambda *args: CliRunner().invoke(bundle_cli.main, [str(a) for a in args])


def test_list(run, make_bundle, tmp_path):
    folder = make_bundle("home/bundles/organs.gcis")
    (tmp_path / "home/bundles/bad.gcis").mkdir()
    (tmp_path / "home/bundles/bad.gcis/manifest.json").write_text("{}")
    text = run("list").stdout
    assert str(folder) in text
    assert "bone, liver" in text
    assert "unreadable" in text
    entries = {e["slug"]: e for e in json.loads(run("list", "--json").stdout)["bundles"]}
    assert entries["organs"]["prompts"] == ["bone", "liver"]
    assert "schema" in entries["bad"]["problem"]


def test_inspect_shows_what_matters(run, make_bundle):
    row = ParityRow(
        stage="onnxruntime", reference="pytorch", precision="fp32", windows=2, max_abs=0.5, scale=20.0,
        labels_changed=0.25, tolerance_abs=0.1, tolerance_labels=0.01,
    )  # fmt: skip
    folder = make_bundle(text_weights="random (seed 3)", parity=(row,))
    text = run("inspect", folder).stdout
    for part in (
        "decoder10",
        "0.50",
        "!!! TEXT WEIGHTS ARE RANDOM (SEED 3)",
        "onnxruntime",
        "25.0000 %",
        "FAILED",
        "model.onnx",
    ):
        assert part in text
    document = json.loads(run("inspect", folder, "--json").stdout)
    assert document["manifest"]["pathways"][0]["path_selection"] == [1, 2, 3, 4, 5, 6, 1]
    assert "!!!" not in run("inspect", make_bundle("other.gcis")).stdout


def test_verify_runs_every_engine(run, make_bundle):
    folder = make_bundle()
    text = run("verify", folder).stdout
    assert "manifest and 1 files are as exported" in text and "onnx fp32: one run in" in text
    assert "one run" not in run("verify", folder, "--no-run").stdout
    document = json.loads(run("verify", folder, "--run", "--json").stdout)
    assert document["ok"] and document["files"] == 1 and document["unlisted"] == []
    assert [(r["name"], r["outcome"]) for r in document["engines"]] == [
        ("onnx fp32", "ok"),
        ("openvino fp32", "ok"),
    ]
    assert all(r["max_abs"] < 1e-4 for r in document["engines"])
    result = run("verify", make_bundle("nan.gcis", nan=True))
    assert result.exit_code == 2
    assert "not finite" in result.stderr


def test_verify_says_what_nothing_reads_and_what_cannot_run(run, make_bundle):
    engine = Engine(
        backend="openvino", precision="int8", file="model.onnx", graph="model.onnx", backend_version="1",
        device="cpu",
    )  # fmt: skip
    folder = make_bundle(engines=(engine,))
    (folder / "engines").mkdir()
    (folder / "engines" / "stale.engine").touch()
    result = run("verify", folder)
    assert result.exit_code == 0
    assert "engines/stale.engine is not in the manifest and is never read" in result.stdout
    assert "openvino int8: cannot run here: the bundle has no int8 graph" in result.stdout


def test_the_schema_is_published(run):
    text = run("schema").stdout
    published = Path(__file__).parents[3] / "docs" / "schema" / "manifest.v2.schema.json"
    assert published.read_text() == text, f"run: gcis-bundle schema > {published}"
    golden = json.loads((Path(__file__).parents[2] / "data" / "golden_manifest_v2.json").read_text())
    jsonschema.validate(golden, json.loads(text))
    golden["graphs"][0]["precision"] = "fp8"
    with pytest.raises(jsonschema.ValidationError, match="fp8"):
        jsonschema.validate(golden, json.loads(text))


def test_verify_names_a_changed_file(run, make_bundle):
    folder = make_bundle()
    (folder / "model.onnx").write_bytes(b"0" * (folder / "model.onnx").stat().st_size)
    result = run("verify", folder, "--run")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("gcis-bundle: error: ")
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" in run("verify", folder, "-v").stderr


def test_doctor(run):
    text = run("doctor").stdout
    assert "CPUExecutionProvider" in text
    found = json.loads(run("doctor", "--json").stdout)
    engines = {(e["engine"], e["device"]): e["works"] for e in found["engines"]}
    assert engines["onnx", "cpu"]
    assert engines["openvino", "cpu"]
    assert not engines["trt", "cuda"]
    assert found["cache"].endswith("cache")


def test_doctor_survives_missing_engines(monkeypatch):
    monkeypatch.setattr(doctor, "onnx_providers", list)
    monkeypatch.setattr(doctor, "openvino_devices", dict)
    monkeypatch.setattr(doctor, "probe_driver", lambda: Driver(version="12.8", gpus=(fake_cuda.gpu(),)))
    monkeypatch.setattr(doctor, "installed_version", lambda family: None)
    findings = {(f.engine, f.device): f for f in doctor.examine()["engines"]}
    assert not any(f.works for f in findings.values())
    assert "pip install" in findings["openvino", "cpu"].why
    assert "onnxruntime-gpu" in findings["onnx", "cuda"].why


def test_cpu_flags(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor : 0\nflags\t\t: fpu avx2 amx_bf16\n")
    assert doctor.cpu_flags(path) == ["avx2", "amx_bf16"]
    assert doctor.cpu_flags(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("capability", "works"),
    [((8, 9), {"onnx": True, "trt-rtx": True}), ((9, 0), {"onnx": True, "trt-rtx": False})],
)
def test_doctor_judges_gpus(run, monkeypatch, capability, works):
    gpu = fake_cuda.gpu(capability, name="Card")
    monkeypatch.setattr(doctor, "probe_driver", fake_cuda.driver_with(gpu))
    monkeypatch.setattr(doctor, "onnx_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(doctor, "installed_version", lambda family: "1.7.1")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: name)
    found = json.loads(run("doctor", "--json").stdout)
    assert found["gpus"] == [{"index": 0, "name": "Card", "capability": list(capability), "memory": 8 << 30}]
    findings = {f["engine"]: f for f in found["engines"] if f["device"] == "cuda"}
    assert {name: findings[name]["works"] for name in works} == works
    assert "bf16 is not offered: in bf16 graphs" in findings["onnx"]["why"]
    assert findings["trt-rtx"]["builds"], "TensorRT-RTX builds for machines that have another GPU"
    if not works["trt-rtx"]:
        assert f"no code for Card (sm_{capability[0]}{capability[1]})" in findings["trt-rtx"]["why"]
    assert f"Card, sm_{capability[0]}{capability[1]}, 8.0 GiB" in run("doctor").stdout
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    findings = {f.engine: f for f in doctor.examine()["engines"] if f.device == "cuda"}
    assert "cuda-python is not installed" in findings["onnx"].why and not findings["onnx"].works
