"""Test the self-test of a bundle: candidates, valid output, engines that cannot run."""

from __future__ import annotations

import numpy as np
import pytest

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import Engine, ParityRow
from gcis_runtime.engines import self_test as trial
from gcis_runtime.engines.self_test import Candidate, candidates, try_window, unlisted_files
from gcis_runtime.errors import BundleError, EngineError


def engine(backend, precision="fp32", device="cpu"):
    return Engine(
        backend=backend, precision=precision, file="model.onnx", graph="model.onnx", backend_version="1",
        device=device,
    )  # fmt: skip


ROW = ParityRow(
    stage="OpenVINO 1", reference="PyTorch static", precision="bf16", graph="model.onnx", windows=1,
    max_abs=0.1, max_rel=0.01, scale=10.0, labels_changed=0.0, tolerance_abs=1.0,
    tolerance_rel=0.1, tolerance_labels=0.0,
)  # fmt: skip


def test_the_portable_graph_is_tried_first_and_nothing_twice(make_bundle):
    engines = (engine("onnx"), engine("openvino", "bf16"), engine("onnx", device="cuda"))
    found = candidates(open_bundle(make_bundle(engines=engines)).manifest)
    assert [c.name for c in found] == ["onnx fp32", "openvino fp32", "openvino bf16", "onnx fp32 (cuda)"]
    several = Candidate(engine="trt", device="cuda", precision="fp16", batch=4, graph="model.fp16.b4.onnx")
    assert several.name == "trt fp16 (cuda, batch 4)"


class _Session:
    def __init__(self, answer):
        self.answer, self.closed = answer, False

    def run(self, window):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(window)

    def close(self):
        self.closed = True


def _answer(factor):
    return lambda window: np.repeat(window * np.float32(factor), 2, axis=1)


@pytest.fixture
def outcomes(make_bundle, monkeypatch):
    """Test a bundle whose engines return given logits, or raise an error when opened or run."""

    def run(**found):
        opened = []

        def open_session(bundle, options):
            answer = found[f"{options.engine}_{options.precision}"]
            if isinstance(answer, BundleError | EngineError) and answer.fix == "when opened":
                raise answer
            opened.append(_Session(answer))
            return opened[-1]

        monkeypatch.setattr(trial, "open_session", open_session)
        bundle = open_bundle(make_bundle(engines=(engine("openvino", "bf16"),), parity=(ROW,)))
        trials = {t.candidate.name: t for t in try_window(bundle)}
        assert all(session.closed for session in opened)
        return trials

    return run


GOOD = {"onnx_fp32": _answer(1), "openvino_fp32": _answer(1), "openvino_bf16": _answer(1.15)}


def test_answers_within_the_limits_are_good(outcomes):
    trials = outcomes(**GOOD)
    assert [t.outcome for t in trials.values()] == ["ok"] * 3
    assert trials["openvino bf16"].relative == pytest.approx(0.15, rel=1e-3)
    assert trials["openvino bf16"].as_dict()["precision"] == "bf16"


@pytest.mark.parametrize(
    ("answer", "outcome", "problem"),
    [
        (_answer(1.25), "failed", "by 0.25 of its range, limit 0.2"),
        (_answer(float("nan")), "failed", "not finite"),
        (lambda window: window, "failed", "wrong shape"),
        (EngineError("it broke"), "failed", "it broke"),
        (EngineError("no bf16 here", fix="when opened"), "cannot run here", "no bf16 here"),
        (BundleError("another output", fix="when opened"), "failed", "another output"),
    ],
)
def test_each_way_to_fail_is_told_from_not_being_able(outcomes, answer, outcome, problem):
    found = outcomes(**GOOD | {"openvino_bf16": answer})["openvino bf16"]
    assert found.outcome == outcome and problem in found.problem


def test_onnx_runtime_on_the_cpu_has_no_excuse(outcomes):
    trials = outcomes(**GOOD | {"onnx_fp32": EngineError("cannot load", fix="when opened")})
    assert trials["onnx fp32"].outcome == "failed"


def test_files_that_nobody_listed_are_found(make_bundle):
    folder = make_bundle()
    assert unlisted_files(open_bundle(folder)) == ()
    (folder / "engines").mkdir()
    (folder / "engines" / "b.engine").touch()
    (folder / "a").touch()
    assert unlisted_files(open_bundle(folder)) == ("a", "engines/b.engine")
