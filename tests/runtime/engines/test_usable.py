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
from gcis_runtime.engines.package_import import import_package
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


ONLY_COPY = """
import sys
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
def only_here(name, path=None, target=None):
    folders = sys.path if path is None else path
    return find_spec(name, [f for f in folders if f == {folder!r}] if name == {name!r} else path, target)
PathFinder.find_spec = only_here
"""
"""Module `sitecustomize` that limits the search for a package to one folder."""


def _package(folder: Path, name: str, body: str, *, only: bool = True) -> dict[str, str]:
    """Write a package that hides the installed one, or is the only one; return the environment with it."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(body)
    if only:
        (folder / "sitecustomize.py").write_text(ONLY_COPY.format(folder=str(folder), name=name))
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


@pytest.mark.parametrize(("package", "engine"), [("openvino", "openvino"), ("onnxruntime", "onnx")])
@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_damaged_copy_earlier_on_the_path_does_not_hide_the_working_one(
    tmp_path: Path, package: str, engine: str, body: str
) -> None:
    environment = _package(tmp_path, package, body, only=False)
    done = subprocess.run(
        [sys.executable, "-c", OPEN, engine], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == engine, "no other engine was tried"
    skipped = str(tmp_path / package / "__init__.py")
    assert f"{package} in {skipped} cannot be used (" in done.stderr
    assert "is used" in done.stderr


@pytest.fixture
def two_copies(tmp_path: Path, monkeypatch) -> list[Path]:
    """Return two folders at the start of `sys.path`, each with a package `twice` that loads a module."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        (folder / "twice").mkdir(parents=True)
        (folder / "twice" / "part.py").write_text(f"WHERE = {folder.name!r}")
        (folder / "twice" / "__init__.py").write_text("from twice.part import WHERE")
    monkeypatch.setattr(sys, "path", [str(f) for f in folders] + sys.path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return folders


def test_no_module_of_the_skipped_copy_remains(two_copies) -> None:
    with (two_copies[0] / "twice" / "__init__.py").open("a") as file:
        file.write("\nraise OSError('no library')")
    assert import_package("twice", needs="WHERE").WHERE == "second"
    assert sys.modules["twice.part"].WHERE == "second"


def test_a_complete_first_copy_is_used(two_copies) -> None:
    assert import_package("twice", needs="WHERE").WHERE == "first"


def test_the_error_of_the_first_copy_is_reported_if_all_fail(two_copies) -> None:
    for folder, error in zip(two_copies, ("OSError('one')", "ValueError('two')"), strict=True):
        (folder / "twice" / "__init__.py").write_text(f"raise {error}")
    with pytest.raises(OSError, match="one"):
        import_package("twice", needs="WHERE")
    assert "twice" not in sys.modules


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
