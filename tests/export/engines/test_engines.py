"""Engines of an export: chosen early, built, read back, recorded, or refused."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from gcis_export.bundle.staged import StagedBundle
from gcis_export.engines import compiled, registry
from gcis_export.engines.compiled import build_engines
from gcis_export.engines.registry import check_engines
from gcis_export.gate.parity import Gate, Reference
from gcis_export.options import BuildOptions, read_capability
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import MANIFEST_FILE, MODEL_FILE, decode
from gcis_runtime.bundles.store import DEMO_FOLDER
from gcis_runtime.engines.gpu import probe
from gcis_runtime.engines.gpu.probe import Driver, Gpu
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.engines.tensorrt.build import Built
from gcis_runtime.errors import EngineError, ParityError
from gcis_runtime.system.private_cache import open_cache

GPU = Gpu(index=0, name="Test GPU", capability=(8, 9), memory=1)


@pytest.fixture
def staged(tmp_path):
    """A copy of the demo bundle, its manifest, and a gate on one window."""
    folder = tmp_path / "b.gcis"
    folder.mkdir()
    for file in DEMO_FOLDER.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    manifest = decode((folder / MANIFEST_FILE).read_bytes(), source="demo")
    gate = Gate([np.zeros(manifest.input.shape, dtype=np.float32)])
    return folder, manifest, gate


def make(staged, names, *, precision="fp32", options=None, expected=()):
    folder, manifest, gate = staged
    steps = []
    built, notes = build_engines(
        StagedBundle(folder=folder, manifest=manifest, gate=gate), names, precision=precision,
        options=options or BuildOptions(), reference=Reference(name="PyTorch static", answers=expected),
        on_step=steps.append,
    )  # fmt: skip
    return built.manifest, notes, steps


def afresh(staged):
    """The staged bundle before any engine was built."""
    manifest = decode((DEMO_FOLDER / MANIFEST_FILE).read_bytes(), source="demo")
    return staged[0], manifest, Gate(staged[2].windows)


@pytest.fixture
def faked(monkeypatch):
    """Builders that answer with what the test says, on a machine with or without a GPU."""

    def install(*, gpu=None, **changes):
        calls = []

        def build(family, graph, settings, *, gpu):
            calls.append((family.backend, settings, gpu))
            fields = {
                "plan": b"plan", "precision": "fp32", "version": "1.2.3", "device": "sm_80+", "seconds": 1.0,
                "settings": {"tf32": "off"}, "timing_cache": b"",
            }  # fmt: skip
            return Built(**{**fields, **changes})

        driver = Driver(version="13.0", gpus=(gpu,)) if gpu else Driver(problem="no CUDA driver was found")
        monkeypatch.setattr(compiled, "build", build)
        for module in (compiled, probe):
            monkeypatch.setattr(module, "probe_driver", lambda: driver)
        for backend in (registry.tensorrt, registry.tensorrt_rtx):
            monkeypatch.setattr(backend, "load_builder", lambda family: None)
        return calls

    return install


def test_an_engine_is_written_listed_and_hashed(staged, faked):
    faked()
    built, notes, steps = make(staged, ("onnx", "trt-rtx"), options=BuildOptions(capabilities=((8, 9),)))
    engine = built.engines[-1]
    assert engine.file == "engines/trt-rtx-1.2.3-sm_80+-fp32.engine"
    assert (engine.graph, engine.precision, engine.settings) == (MODEL_FILE, "fp32", {"tf32": "off"})
    assert open_bundle(staged[0]).file(engine.file).read_bytes() == b"plan"
    assert steps == ["building TensorRT-RTX from model.onnx"]
    assert "was not run here (no CUDA driver was found); its graph model.onnx was compared" in notes[0]


def test_nothing_is_built_for_engines_that_read_the_graph(staged, faked):
    calls = faked()
    built, notes, _ = make(staged, ("onnx", "openvino"))
    assert (built, notes, calls) == (staged[1], (), [])


def test_another_precision_than_the_graph_is_an_error(staged, faked):
    faked(precision="fp32")
    folder, manifest, _ = staged
    graph = msgspec.structs.replace(manifest.graphs[0], precision="fp16")
    built = compiled.build(registry.tensorrt_rtx.FAMILY, b"", None, gpu=None)
    with pytest.raises(EngineError, match="in the precision of its graph; received fp32; expected fp16"):
        compiled._write(folder, registry.tensorrt_rtx.FAMILY, graph, built)
    assert not (folder / "engines").exists()


def test_trt_keeps_its_measurements_for_the_next_build(staged, faked, monkeypatch, tmp_path):
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    calls = faked(gpu=GPU, device="sm_86", timing_cache=b"times")
    options = BuildOptions(version_compatible=True, hardware_compatibility="ampere+", optimization_level=5)
    _, notes, _ = make(staged, ("trt",), options=options)
    assert "built for sm_86" in notes[0]
    make(afresh(staged), ("trt",))
    (_, first, gpu), (_, second, _) = calls
    assert gpu == GPU and (first.timing_cache, second.timing_cache) == (b"", b"times")
    assert (first.version_compatible, first.hardware_compatibility, first.optimization_level) == (
        True,
        "ampere+",
        5,
    )
    assert open_cache().find("trt-timing", {"gpu": "Test GPU", "backend": "trt"}) is not None


def test_where_a_gpu_is_the_engine_runs_and_is_compared(staged, faked, monkeypatch):
    faked(gpu=GPU)
    opened, answer = [], np.ones(staged[1].output.shape, dtype=np.float32)

    class Session:
        def run(self, window):
            return answer

        def close(self):
            opened.append("closed")

    def open_session(bundle, options):
        opened.append(options)
        return Session()

    monkeypatch.setattr(compiled, "open_session", open_session)
    _, notes, _ = make(staged, ("trt-rtx",), expected=[answer])
    assert notes == ()
    assert opened[0] == EngineOptions(engine="trt-rtx", device="cuda", precision="fp32", batch=1)
    (row,) = staged[2].rows
    assert row.stage == "TensorRT-RTX 1.2.3" and row.graph == MODEL_FILE and row.passed
    fresh = (
        staged[0],
        decode((DEMO_FOLDER / MANIFEST_FILE).read_bytes(), source=""),
        Gate(staged[2].windows),
    )
    with pytest.raises(ParityError, match=r"TensorRT-RTX 1\.2\.3"):
        make(fresh, ("trt-rtx",), expected=[-answer])
    assert opened[-1] == "closed"


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("tensorflow",), {}, "unknown engine"),
        (("trt",), {}, "built on the GPU that will run them; received no CUDA driver was found"),
        (
            ("trt-rtx",),
            {"capabilities": ((9, 0),)},
            r"compute capability; received 9\.0; expected 7\.5, 8\.0",
        ),
        (("openvino",), {"capabilities": ((8, 9),)}, "--compute-capability belongs to --engine trt-rtx"),
        (("trt-rtx",), {"version_compatible": True}, "--version-compatible belongs to --engine trt"),
        (("trt-rtx",), {"hardware_compatibility": "same"}, "--hardware-compatibility belongs to"),
        (("onnx",), {"tf32": True}, "--tf32 belongs to --engine trt or trt-rtx"),
        (("onnx",), {"optimization_level": 0}, "--optimization-level belongs to"),
    ],
)
def test_what_cannot_be_made_is_refused_early(faked, names, options, message):
    faked()
    with pytest.raises(EngineError, match=message):
        check_engines(names, precision="fp32", options=BuildOptions(**options))


def test_precisions_belong_to_engines(faked):
    faked()
    assert check_engines(("trt-rtx",), precision="bf16") == ("onnx", "trt-rtx")
    assert check_engines(["openvino"], precision="fp32") == ("onnx", "openvino")
    with pytest.raises(
        EngineError, match=r"none of the selected engines supports bf16.*Add --engine openvino"
    ):
        check_engines(("onnx",), precision="bf16")


def test_choosing_engines_does_not_import_torch():
    code = "import sys, gcis_export.engines.registry; print(*map(sys.modules.get, ('torch', 'tensorrt_rtx')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["None", "None"]


@pytest.mark.parametrize("text", ["8.9", "89", "sm_89", " SM89 "])
def test_capabilities_are_read_as_people_write_them(text):
    assert read_capability(text) == (8, 9)


def test_a_capability_is_a_number():
    with pytest.raises(EngineError, match="not a compute capability; received 'ada'"):
        read_capability("ada")


@pytest.mark.trt
def test_the_demo_bundle_becomes_a_real_engine(staged):
    pytest.importorskip("tensorrt_rtx")
    built, notes, _ = make(staged, ("trt-rtx",))
    engine = built.engines[-1]
    assert (engine.backend, engine.precision, engine.device) == ("trt-rtx", "fp32", "sm_80+")
    assert engine.settings["precision_read_from"] == "engine layers"
    size = open_bundle(staged[0]).file(engine.file).stat().st_size
    assert size > sum(f.bytes for f in built.files if f.path == MODEL_FILE)
    if probe.probe_driver().problem:
        assert "was not run here" in notes[0]
    options = BuildOptions(capabilities=((8, 6), (8, 9)))
    narrowed, _, _ = make(afresh(staged), ("trt-rtx",), options=options)
    assert "sm_86,sm_89" in narrowed.engines[-1].file
