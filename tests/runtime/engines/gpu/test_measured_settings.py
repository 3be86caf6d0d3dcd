"""Test that the settings of a trial are used where they hold, and the plain settings everywhere else."""

from __future__ import annotations

import json
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from gcis_runtime import Segmenter, Volume
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.engines import machine_rows
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.gpu import probe
from gcis_runtime.engines.onnx import measured_settings as records
from gcis_runtime.engines.onnx.cuda_settings import CudaSettings, Outcome
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import EngineError
from gcis_runtime.sliding.cuda import labeller as gpu_labeller
from tests.support import fake_cuda
from tests.support.batch_bundle import add_batches
from tests.support.bundles_and_images import smooth_ct
from tests.support.fake_ort_cuda import Bound

DATE = "2026-11-28"
PLAIN, BOTH = CudaSettings(), CudaSettings(search="EXHAUSTIVE", graph=True)
VOLUME = Volume(array=smooth_ct((70, 66, 90)), affine=np.diag([-2.0, -2.0, 2.0, 1.0]))
CUDA = EngineOptions(device="cuda")


def record_of(settings, plain=PLAIN, **fields):
    outcome = Outcome(
        settings=settings, window_seconds=0.0148, plain_seconds=0.0189, start_seconds=2.0,
        plain_start_seconds=1.5,
    )  # fmt: skip
    record = records.MeasuredSettings.of((outcome,), plain, precision="fp32", date=DATE)
    return msgspec.structs.replace(record, **fields)


@pytest.fixture
def bundle(make_bundle, driver, monkeypatch):
    monkeypatch.setattr(gpu_labeller, "cached_kernels", lambda *_: b"")
    return open_bundle(make_bundle())


def stored(bundle, settings=BOTH, **fields):
    assert records.store_settings(bundle, record_of(settings, **fields), device="cuda")
    return bundle


def opened(bundle, options=CUDA):
    session = open_session(bundle, options)
    session.close()
    return session


def test_a_stored_trial_is_used_and_reported(bundle, cuda_ort):
    before = sorted(p.name for p in bundle.folder.rglob("*"))
    assert opened(stored(bundle)).settings == BOTH
    with Segmenter.open(bundle, device="cuda") as segmenter:
        result = segmenter.segment(VOLUME)
    assert result.engine.settings == (
        "EXHAUSTIVE search, CUDA graph, 1 window per run: fastest in the trial on this machine "
        "(14.8 ms per window, 18.9 ms with the plain settings), 2026-11-28"
    )
    assert cuda_ort[-1].options["cudnn_conv_algo_search"] == "EXHAUSTIVE" and cuda_ort[-1].replays > 0
    assert sorted(p.name for p in bundle.folder.rglob("*")) == before
    with Segmenter.open(bundle, engine="onnx") as segmenter:
        np.testing.assert_array_equal(result.labels, segmenter.segment(VOLUME).labels)
        assert segmenter.engine.settings == ""


def test_without_a_trial_the_plain_settings_are_reported(bundle, cuda_ort):
    session = opened(bundle)
    assert (session.settings, session.measured, session.notes) == (PLAIN, "", ())
    assert session.settings_text == (
        "HEURISTIC search, 1 window per run: the plain settings, no trial was made on this machine"
    )


def test_a_trial_that_kept_the_plain_settings_says_so(bundle, cuda_ort):
    slow = Outcome(settings=BOTH, window_seconds=1.0, plain_seconds=1.0)
    record = records.MeasuredSettings.of((slow,), PLAIN, precision="fp32", date=DATE)
    assert records.store_settings(bundle, record, device="cuda")
    session = opened(bundle)
    assert (session.settings, session.measured) == (PLAIN, "")
    assert session.settings_text.endswith(
        "none of 1 alternative passed the trial on this machine, 2026-11-28"
    )


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("graph", [False, True])
def test_batches_give_equal_labels(make_bundle, bundle, cuda_ort, batch, graph):
    several = open_bundle(add_batches(make_bundle("several.gcis"), 2, 4))
    settings, plain = CudaSettings(batch=batch, graph=graph), CudaSettings(batch=4)
    if settings != plain:
        stored(several, settings, plain=plain)
    with Segmenter.open(several, device="cuda") as segmenter:
        found = segmenter.segment(VOLUME)
    assert cuda_ort[-1].bound["image"][3][0] == batch and (cuda_ort[-1].replays > 0) == graph
    with Segmenter.open(bundle, engine="onnx") as segmenter:
        np.testing.assert_array_equal(found.labels, segmenter.segment(VOLUME).labels)


@pytest.mark.parametrize(
    "options",
    [{"tf32": True, "engine": "onnx"}, {"batch": 2}, {"measured_settings": False}],
    ids=str,
)
def test_a_trial_does_not_hold_for_other_options(bundle, cuda_ort, options):
    session = opened(stored(bundle), EngineOptions(device="cuda", **options))
    assert session.settings == PLAIN and session.settings_text.endswith("the trial is not used")


CHANGES = ["GPU", "capability", "driver", "ONNX Runtime", "cuDNN", "bundle", "damaged", "not JSON", "field"]
CHANGES += ["contradiction", "batch", "negative", "removed"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_that_does_not_hold_is_ignored(bundle, make_bundle, cuda_ort, monkeypatch, change):
    stored(bundle)
    probes = {
        "GPU": fake_cuda.gpu(name="Other GPU"),
        "capability": fake_cuda.gpu((9, 0)),
    }
    if change in probes:
        found = fake_cuda.driver_with(probes[change])
        monkeypatch.setattr(probe, "probe_driver", found)
        monkeypatch.setattr(machine_rows, "probe_driver", found)
    elif change == "driver":
        newer = probe.Driver(version="13.1", gpus=(fake_cuda.gpu(),))
        monkeypatch.setattr(machine_rows, "probe_driver", lambda: newer)
    elif change == "ONNX Runtime":
        monkeypatch.setattr(records, "ort", SimpleNamespace(__version__="1.99"))
    elif change == "cuDNN":
        monkeypatch.setattr(records, "version_of", lambda _name: "9.99")
    elif change == "bundle":
        bundle = open_bundle(make_bundle("other.gcis", name="other"))
    elif change == "damaged":
        (file,) = bundle.folder.parent.rglob("settings-*.bin")
        file.write_bytes(file.read_bytes().replace(b"0.0148", b"0.0048"))
    elif change == "removed":
        for file in bundle.folder.parent.rglob("settings-*.bin"):
            file.unlink()
    else:
        _replace(bundle, change)
    session = opened(bundle)
    assert (session.settings, session.measured) == (PLAIN, "")
    assert session.settings_text.endswith("no trial was made on this machine")


def _replace(bundle, change):
    """Store content that another version could have written."""
    document = json.loads(msgspec.json.encode(record_of(BOTH)))
    if change == "field":
        document["settings"]["workspace"] = 1
    elif change == "contradiction":
        document["outcomes"][0]["problem"] = "other logits"
    elif change == "batch":
        document["settings"]["batch"] = document["outcomes"][0]["settings"]["batch"] = 16
    elif change == "negative":
        document["outcomes"][0]["window_seconds"] = -1.0
    data = b"\xff{" if change == "not JSON" else json.dumps(document).encode()
    cache = machine_rows.open_cache_beside(bundle.folder)
    key = records._key(bundle, "fp32", "cuda")
    assert cache.store("settings", key, lambda path: path.write_bytes(data))


@pytest.mark.parametrize("engine", ["auto", "onnx"])
@pytest.mark.parametrize(
    ("message", "step"),
    [
        ("CUDA failure 700: an illegal memory access", "the settings of the trial do not work here: CUDA"),
        (
            "Failed to allocate memory for requested buffer",
            "out of memory with onnx on cuda:0, window batch 1",
        ),
    ],
)
def test_a_first_window_that_fails_continues_with_the_plain_settings(  # noqa: PLR0917
    bundle, cuda_ort, monkeypatch, engine, message, step
):
    compute = Bound.compute

    def fail(self, options):
        if self.options["cudnn_conv_algo_search"] == "EXHAUSTIVE":
            self.fail = RuntimeError(message)
        compute(self, options)

    monkeypatch.setattr(Bound, "compute", fail)
    with Segmenter.open(stored(bundle), device="cuda", engine=engine) as segmenter:
        found = segmenter.segment(VOLUME)
        assert (found.engine.name, found.engine.device) == ("onnx", "cuda:0")
        assert found.steps[0].startswith(step) and "the plain settings" in found.steps[0]
        assert len(found.steps) == 1 and found.engine.settings.endswith("the trial is not used")
    assert cuda_ort[-1].options["cudnn_conv_algo_search"] == "HEURISTIC"
    with Segmenter.open(bundle, engine="onnx") as segmenter:
        np.testing.assert_array_equal(found.labels, segmenter.segment(VOLUME).labels)


def test_settings_that_cannot_be_opened_are_left_with_a_note(bundle, cuda_ort, monkeypatch, driver):
    monkeypatch.setattr(Bound, "on_cpu", {"Cast"})  # not in this graph, but the simulation refuses to record
    session = opened(stored(bundle))
    assert (session.settings, session.measured) == (PLAIN, "")
    (note,) = session.notes
    assert note.startswith(
        "the settings of the trial (EXHAUSTIVE search, CUDA graph, 1 window per run) cannot"
    )
    assert note.endswith("continuing with the plain settings")
    assert (driver.aborts, driver.alive) == ([], {})


def test_an_engine_that_cannot_be_opened_at_all_keeps_its_error(bundle, cuda_ort, monkeypatch):
    monkeypatch.setattr(Bound, "get_providers", lambda self: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match="could not start on CUDA"):
        opened(stored(bundle))


def test_the_calibration_of_other_settings_is_separate(bundle, cuda_ort):
    keys = []
    for options in ({}, {"measured_settings": False}):
        with Segmenter.open(stored(bundle), options=EngineOptions(device="cuda", **options)) as segmenter:
            keys.append(segmenter._engine.key())
    assert keys[0].pop("settings") == BOTH.text
    assert keys[0] == keys[1]
