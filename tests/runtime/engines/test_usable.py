"""Test engines that are installed but do not work: `auto` takes the next one, and the doctor explains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gcis_runtime.engines import doctor, usable
from gcis_runtime.engines import memory_fallback as fallback
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import EngineError, UnusableEngineError
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from tests.support.fake_session import ThresholdSession, threshold_bundle

BROKEN = {
    "import": 'raise ImportError("numpy.core.multiarray failed to import")',
    "library": 'raise OSError("libtbb.so.12: cannot open shared object file")',
    "attribute": 'raise AttributeError("_ARRAY_API not found")',
    "empty": "",
}
OPEN = """
import sys
from gcis_runtime import EngineOptions, Segmenter
with Segmenter.open("demo", options=EngineOptions(engine=sys.argv[1])) as ours:
    print(ours.engine.name, *ours.notes, sep="|")
"""


def _package(folder: Path, name: str, body: str) -> dict[str, str]:
    """Write a package that hides the installed one; return the environment with it."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(body)
    return os.environ | {"PYTHONPATH": str(folder), "GCIS_HOME": str(folder)}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_auto_takes_the_next_engine_and_says_why(tmp_path: Path, body: str) -> None:
    environment = _package(tmp_path, "openvino", body)
    done = subprocess.run(
        [sys.executable, "-c", OPEN, "auto"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    name, note = done.stdout.strip().split("|")
    assert name == "onnx"
    assert note.startswith("openvino does not work here: ")


@pytest.mark.parametrize(("package", "engine"), [("openvino", "openvino"), ("onnxruntime", "onnx")])
@pytest.mark.parametrize("body", [BROKEN["attribute"], BROKEN["empty"]], ids=["attribute", "empty"])
def test_the_doctor_explains_a_damaged_package(tmp_path: Path, package: str, engine: str, body: str) -> None:
    environment = _package(tmp_path, package, body)
    code = "from gcis_runtime.cli.bundle import main; main(['doctor', '--json'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {(f["engine"], f["device"]): f for f in json.loads(done.stdout)["engines"]}[engine, "cpu"]
    assert not found["works"]
    assert "cannot be imported: " in found["why"]
    assert f"--force-reinstall {package}" in found["why"]


class _Session(ThresholdSession):
    """Fails on its first window."""

    def __init__(self, name: str, *, problem: str | None) -> None:
        super().__init__()
        self.name, self.problem = name, problem

    def run(self, window):
        if self.problem == "error":
            raise EngineError("failed on a window", received="illegal instruction")
        logits = super().run(window)
        return np.full_like(logits, np.nan) if self.problem == "nan" else logits


@pytest.mark.parametrize("problem", ["error", "nan"])
def test_an_engine_that_fails_on_its_first_window_is_replaced(monkeypatch, problem) -> None:
    monkeypatch.setattr(fallback, "automatic_engines", lambda *_: ("openvino", "onnx"))
    problems = {"openvino": problem, "onnx": None}

    def opener(_bundle, options):
        name = "openvino" if options.engine == "auto" else options.engine
        return _Session(name, problem=problems[name])

    bundle = threshold_bundle()
    window = np.zeros((1, *bundle.manifest.input.shape[1:]), np.float32)
    engine = LoadedEngine.open(bundle, EngineOptions(), opener=opener)
    engine.until_it_fits(lambda: engine.run(window))
    assert engine.info.name == "onnx"
    assert engine.steps[0].startswith("openvino does not work here: ")
    named = LoadedEngine.open(bundle, EngineOptions(engine="openvino"), opener=opener)
    with pytest.raises(UnusableEngineError):
        named.until_it_fits(lambda: named.run(window))


def test_an_error_lists_every_engine_that_does_not_work(monkeypatch) -> None:
    monkeypatch.setattr(fallback, "automatic_engines", lambda *_: ("openvino", "onnx"))

    def opener(_bundle, options):
        raise UnusableEngineError("cannot be used", received=f"{options.engine} is damaged")

    with pytest.raises(EngineError, match=r"openvino does not work here: auto is damaged; onnx: onnx is dam"):
        LoadedEngine.open(threshold_bundle(), EngineOptions(), opener=opener)


def test_two_distributions_of_onnx_runtime_are_diagnosed(monkeypatch) -> None:
    monkeypatch.setattr(usable, "version_of", lambda _name: "1.31.1")
    assert "overwrite each other's files" in usable.advice("onnx")
    found = {(f.engine, f.device): f for f in doctor.examine()["engines"]}["onnx", "cpu"]
    assert "pip uninstall onnxruntime onnxruntime-gpu" in found.why


def test_variables_that_hide_processor_features_are_named(monkeypatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert usable.advice("openvino").startswith("Unset ONEDNN_MAX_CPU_ISA=AVX2")
