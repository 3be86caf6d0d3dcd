"""Test that the compiled model is stored and found, and that a changed file is not used."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.openvino import session as module
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import EngineError
from gcis_runtime.system.private_cache import CachedFile, PrivateCache, open_cache


@pytest.fixture
def start(make_bundle, tmp_path, monkeypatch):
    """Return a function that opens a session and returns whether OpenVINO compiled, and the logits."""
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    bundle = open_bundle(make_bundle())
    window = np.random.default_rng(0).random((1, 1, 64, 64, 64), dtype=np.float32)

    def run(**options):
        compiled = []
        ov = module.import_openvino()

        class Core(ov.Core):
            def compile_model(self, *arguments):
                compiled.append(arguments)
                return super().compile_model(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(ov, "Core", Core)
            session = open_session(bundle, EngineOptions(engine="openvino", **options))
        answer = np.array(session.run(window))
        session.close()
        return bool(compiled), answer

    return run


def test_the_second_start_compiles_nothing(start):
    first, answer = start()
    again, same = start()
    assert (first, again) == (True, False)
    np.testing.assert_array_equal(answer, same)
    assert start(threads=1)[0], "other settings are another model"
    assert not start(threads=1)[0]


def test_a_damaged_or_foreign_model_is_compiled_again(start, monkeypatch):
    start()
    cache = open_cache()
    (data,) = cache.folder.glob("*.bin")
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    assert start()[0]
    assert not start()[0]
    # A file that hashes right but that OpenVINO does not take, as after an update that kept its version.
    foreign = mmap.mmap(-1, 11)
    foreign.write(b"not a model")
    monkeypatch.setattr(PrivateCache, "find", lambda *_: CachedFile(mapped=foreign))
    assert start()[0]


def test_without_a_private_folder_it_compiles_each_time(start, monkeypatch):
    monkeypatch.setattr(module, "open_cache", lambda: None)
    assert start()[0] and start()[0]


def test_what_it_computes_in_is_read_back(start, monkeypatch):
    monkeypatch.setattr(module, "read_precision", lambda model: "bf16")
    with pytest.raises(
        EngineError, match="not compute in the requested precision; received bf16; expected fp32"
    ):
        start(precision="fp32")


def test_read_precision_of_a_real_model(make_bundle):
    ov = module.import_openvino()
    core = ov.Core()
    model = core.read_model(str(make_bundle("other.gcis") / "model.onnx"))
    for hint, precision in (("f32", "fp32"), ("bf16", "bf16")):
        if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            continue
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        assert module.read_precision(compiled) == precision


@pytest.mark.parametrize(("cpus", "threads", "bound"), [(4, 1, False), (4, 3, False), (1, 1, True)])
def test_threads_are_bound_only_where_they_take_every_processor(start, monkeypatch, cpus, threads, bound):
    """Otherwise two processes with one thread each would share one of two processors."""
    monkeypatch.setattr(module, "allowed_cpus", lambda: cpus)
    found = []

    def read(model):
        found.append(model.get_property("ENABLE_CPU_PINNING"))
        return "fp32"

    monkeypatch.setattr(module, "read_precision", read)
    start(precision="fp32", threads=threads)
    assert found == [bound]
