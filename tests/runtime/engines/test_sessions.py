"""Test that engines give equal logits, report name and version, and refuse unsupported options."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import Engine, ParityRow
from gcis_runtime.engines import factory
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.graph_choice import passed
from gcis_runtime.engines.openvino.session import choose_precision
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import BundleError, EngineError
from gcis_runtime.system.cpus import usable_cpus
from tests.support.bundles_and_images import conv_weights

BF16_ENGINE = Engine(
    backend="openvino",
    precision="bf16",
    file="model.onnx",
    graph="model.onnx",
    backend_version="2026",
    device="cpu",
)


def parity(labels_changed):
    return ParityRow(
        stage="openvino", reference="pytorch", precision="bf16", windows=1, max_abs=0.1, scale=10.0,
        labels_changed=labels_changed, tolerance_abs=0.5, tolerance_labels=0.01,
    )  # fmt: skip


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_engines_compute_the_graph(make_bundle, engine):
    window = np.random.default_rng(0).random((1, 1, 64, 64, 64), dtype=np.float32)
    kernel, bias = (torch.from_numpy(a) for a in conv_weights())
    expected = torch.nn.functional.conv3d(torch.from_numpy(window), kernel, bias, padding=1).numpy()
    session = open_session(open_bundle(make_bundle()), EngineOptions(engine=engine))
    assert (session.name, session.device, session.precision) == (engine, "cpu", "fp32")
    assert session.threads == usable_cpus()
    np.testing.assert_allclose(session.run(window), expected, atol=2e-5)
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run(window)


def test_auto_takes_openvino_where_it_is_installed(make_bundle, monkeypatch):
    bundle = open_bundle(make_bundle())
    assert open_session(bundle, EngineOptions()).name == "openvino"
    monkeypatch.setattr(factory, "_installed", lambda _: False)
    assert open_session(bundle, EngineOptions()).name == "onnx"
    with pytest.raises(EngineError, match="not installed"):
        open_session(bundle, EngineOptions(engine="openvino"))
    with pytest.raises(EngineError, match="needs OpenVINO"):
        open_session(bundle, EngineOptions(precision="bf16"))


def test_bf16_needs_a_passed_parity_row(make_bundle):
    def allowed(folder, **options):
        manifest = open_bundle(make_bundle(folder, **options)).manifest
        return passed(manifest, backend="openvino", precision="bf16")

    assert not allowed("a", engines=(BF16_ENGINE,))
    assert not allowed("b", parity=(parity(0.0),))
    assert not allowed("c", engines=(BF16_ENGINE,), parity=(parity(0.5),))
    assert not allowed("d", engines=(BF16_ENGINE,), parity=(parity(0.0), parity(0.5)))
    assert allowed("e", engines=(BF16_ENGINE,), parity=(parity(0.0),))


@pytest.mark.parametrize(
    ("asked", "native", "reported", "expected"),
    [
        ("auto", True, True, "bf16"),
        ("auto", True, False, "fp32"),
        ("auto", False, True, "fp32"),
        ("fp32", True, True, "fp32"),
        ("bf16", True, False, "bf16"),  # asked for by name: the user has decided
        ("bf16", False, True, None),
    ],
)
def test_bf16_by_itself_only_where_the_processor_has_it_and_parity_allows(
    make_bundle, asked, native, reported, expected
):
    options = {"engines": (BF16_ENGINE,), "parity": (parity(0.0),)} if reported else {}
    manifest = open_bundle(make_bundle(**options)).manifest
    capabilities = ["FP32", "INT8", *(["BF16"] if native else [])]
    if expected is None:
        with pytest.raises(EngineError, match="this CPU has no bf16; received FP32, INT8; expected BF16"):
            choose_precision(asked, manifest, capabilities)
    else:
        assert choose_precision(asked, manifest, capabilities) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tensorflow"}, "unknown engine"),
        ({"device": "tpu"}, "unknown device"),
        ({"engine": "trt"}, "trt engines run on NVIDIA GPUs"),
        ({"engine": "trt-rtx"}, "trt-rtx engines run on NVIDIA GPUs"),
        ({"engine": "openvino", "device": "cuda"}, "runs on the CPU"),
        ({"engine": "openvino", "precision": "fp16"}, "does not support this precision"),
        ({"engine": "onnx", "precision": "bf16"}, "computes in float32 on the CPU"),
        ({"engine": "onnx", "precision": "int8"}, "computes in float32 on the CPU"),
        ({"engine": "onnx", "device": "cuda", "precision": "int8"}, "does not compute in this precision"),
        ({"engine": "openvino", "precision": "int8"}, "the bundle has no int8 graph"),
    ],
)
def test_what_cannot_be_had_is_refused(make_bundle, options, message):
    with pytest.raises(EngineError, match=message):
        open_session(open_bundle(make_bundle()), EngineOptions(**options))


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_graph_that_the_manifest_does_not_describe_is_refused(make_bundle, engine):
    with pytest.raises(BundleError, match="input is not the one"):
        open_session(open_bundle(make_bundle(input_name="other")), EngineOptions(engine=engine))


def test_openvino_is_imported_without_its_telemetry():
    import subprocess

    code = (
        "import sys; from gcis_runtime.engines.openvino.quiet_import import import_openvino;"
        "ov = import_openvino();"
        "print(ov.__name__, 'openvino_telemetry' in sys.modules, 'openvino.tools.ovc' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["openvino", "False", "False"]


V1 = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("files", "member", "expected"),
    [
        ({"cpu.max": "150000 100000"}, "0::/", 2),
        ({"cpu.max": "50000 100000"}, "0::/", 1),
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({V1[0]: "100000", V1[1]: "100000"}, "", 1),
        ({V1[0]: "-1", V1[1]: "100000"}, "", None),
        ({}, "", None),
        # The group lies below the mount, and one above it is tighter.
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "400000 100000"}, "0::/a/b", 2),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b", 2),
        ({"a/cpu.max": "200000 100000"}, "0::/other", None),
        (
            {"cpu,cpuacct/d/cpu.cfs_quota_us": "300000", "cpu,cpuacct/d/cpu.cfs_period_us": "100000"},
            "5:memory:/m\n4:cpu,cpuacct:/d",
            3,
        ),
        ({"cpu/d/cpu.cfs_quota_us": "300000", "cpu/d/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/d", 3),
        ({}, "nonsense", None),
    ],
)
def test_container_quotas_count(tmp_path, monkeypatch, files, member, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "membership").write_text(member)
    assert usable_cpus(cgroup=tmp_path, membership=tmp_path / "membership") == (expected or 8)


def test_affinity_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3})
    assert usable_cpus(cgroup=tmp_path, membership=tmp_path / "none") == 2
