"""Test the trial of settings on the simulated GPU: what is chosen, and what is refused for which reason."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.engines.onnx.cuda import OnnxCudaSession
from gcis_runtime.engines.onnx.cuda_settings import (
    REPAID_WITHIN,
    CudaSettings,
    Outcome,
    candidates,
    choose,
    plain_settings,
)
from gcis_runtime.errors import EngineError
from gcis_runtime.pipeline.trial import measure as measure_module
from gcis_runtime.pipeline.trial.measure import TURNS, measure
from gcis_runtime.pipeline.trial.task import Task
from tests.support.batch_bundle import add_batches
from tests.support.bundles_and_images import ROI
from tests.support.fake_ort_cuda import Bound
from tests.support.numpy_kernels import array_at

PLAIN = CudaSettings()
EXHAUSTIVE = CudaSettings(search="EXHAUSTIVE")
RECORDED = CudaSettings(graph=True)
BOTH = CudaSettings(search="EXHAUSTIVE", graph=True)


def settings_of(bound):
    """Return the settings of a simulated session."""
    return CudaSettings(
        search=bound.options["cudnn_conv_algo_search"],
        graph=bound.options.get("enable_cuda_graph") == "1",
        batch=bound.bound["image"][3][0],
    )


@dataclass
class Simulation:
    """Time that passes in runs, and faults, by settings.

    Attributes:
        seconds: Seconds per run.
        start: Further seconds of a session's first run.
        fault: Called with the session and the network of a run; returns the network to run instead.
    """

    seconds: dict[CudaSettings, float] = field(default_factory=dict)
    start: dict[CudaSettings, float] = field(default_factory=dict)
    fault: dict[CudaSettings, object] = field(default_factory=dict)
    now: float = 0.0

    def clock(self):
        return self.now


@pytest.fixture
def simulation(cuda_ort, monkeypatch):
    found = Simulation()
    compute = Bound.compute

    def timed(self, options):
        settings = settings_of(self)
        if settings in found.fault:
            found.fault[settings](self)
        found.now += found.seconds.get(settings, 1.0 * settings.batch)
        if not self.runs:
            found.now += found.start.get(settings, 0.0)
        compute(self, options)

    monkeypatch.setattr(Bound, "compute", timed)
    return found


def task_of(bundle, *settings, seconds=1e9):
    manifest = bundle.manifest
    return Task(
        bundle=str(bundle.folder), sha256=bundle.sha256, device="cuda", precision="fp32",
        plain=plain_settings(manifest, precision="fp32"),
        candidates=settings or candidates(manifest, precision="fp32"), seconds=seconds,
    )  # fmt: skip


WINDOWS = [*np.random.default_rng(0).random((2, 1, 1, *ROI), dtype=np.float32), np.zeros((1, 1, *ROI), "f4")]


def run(bundle, simulation, *settings, windows=WINDOWS, **task):
    task = task_of(bundle, *settings, **task)
    first, *outcomes = measure(bundle, task, windows=windows, windows_per_turn=2, clock=simulation.clock)
    assert first is None
    return outcomes


@pytest.fixture
def bundle(make_bundle):
    return open_bundle(make_bundle())


def test_candidates_have_the_graphs_of_the_bundle(bundle, make_bundle):
    assert candidates(bundle.manifest, precision="fp32") == (EXHAUSTIVE, RECORDED, BOTH)
    several = open_bundle(add_batches(make_bundle("several.gcis"), 2, 8)).manifest
    assert plain_settings(several, precision="fp32") == CudaSettings(batch=8)
    found = candidates(several, precision="fp32")
    assert sorted({s.batch for s in found}) == [1, 2, 8] and len(found) == 3 * 4 - 1
    assert CudaSettings(batch=8) not in found and CudaSettings(batch=1) in found


def test_the_fastest_is_chosen_and_everything_is_freed(bundle, simulation, driver, cuda_ort, monkeypatch):
    kept = []  # sessions that the garbage collector cannot close

    def keep(*arguments, **settings):
        kept.append(OnnxCudaSession(*arguments, **settings))
        return kept[-1]

    monkeypatch.setattr(measure_module, "OnnxCudaSession", keep)
    simulation.seconds = {EXHAUSTIVE: 0.9, RECORDED: 0.93, BOTH: 0.8}
    outcomes = run(bundle, simulation)
    assert [o.settings for o in outcomes] == [EXHAUSTIVE, RECORDED, BOTH]
    assert [o.window_seconds for o in outcomes] == pytest.approx([0.9, 0.93, 0.8])
    assert [o.plain_seconds for o in outcomes] == pytest.approx([1.0] * 3)
    assert all(o.refusal == "" and o.relative < 1e-5 for o in outcomes)
    assert choose(outcomes, PLAIN)[0] == BOTH
    assert (driver.aborts, driver.alive) == ([], {}) and len(kept) == 5
    assert all(session.destroyed for session in cuda_ort)


def test_batches_count_per_window(make_bundle, simulation):
    bundle = open_bundle(add_batches(make_bundle(), 2, 4))
    four, two = CudaSettings(batch=4, graph=True), CudaSettings(batch=2)
    simulation.seconds = {four: 2.0, two: 1.0}
    outcomes = run(bundle, simulation, four, two)
    assert [o.window_seconds for o in outcomes] == pytest.approx([0.5, 0.5])
    assert [o.problem for o in outcomes] == ["", ""], "logits are those of one window per run"


def test_faster_but_wrong_is_refused(bundle, simulation):
    simulation.seconds = {EXHAUSTIVE: 0.1}

    def spoil(bound):
        if not hasattr(bound, "spoiled"):
            bound.spoiled, real = True, bound.real
            bound.real = _Scaled(real)

    simulation.fault = {EXHAUSTIVE: spoil}
    (outcome,) = run(bundle, simulation, EXHAUSTIVE)
    assert outcome.problem.startswith("other logits: relative difference 0.05")
    assert choose([outcome], PLAIN) == (
        PLAIN, "the plain settings: none of 1 alternative passed the trial on this machine"
    )  # fmt: skip


class _Scaled:
    def __init__(self, real):
        self.run = lambda names, inputs: [np.float32(1.05) * real.run(names, inputs)[0]]
        self.get_inputs, self.get_outputs = real.get_inputs, real.get_outputs


def test_replays_of_old_inputs_are_refused(bundle, simulation, monkeypatch):
    """The first window is right: only further windows show that the input was recorded."""
    simulation.seconds = {RECORDED: 0.1}
    record = Bound.record

    def with_the_window(self, thread, network):
        record(self, thread, network)
        _, _, _, shape, address = self.bound["image"]
        window = np.array(array_at(address, shape, np.float32))
        inner = self.network()

        def replay():
            array_at(address, shape, np.float32)[...] = window
            inner()

        self.graphs[thread] = replay

    monkeypatch.setattr(Bound, "record", with_the_window)
    (outcome,) = run(bundle, simulation, RECORDED)
    assert outcome.problem.startswith("other logits: relative difference")


def test_a_replay_that_is_wrong_only_later_is_refused(bundle, simulation):
    """Every window is computed several times: a recording is replayed more often than there are windows."""
    simulation.seconds = {RECORDED: 0.1}

    def spoil(bound):
        if bound.replays == 2 * len(WINDOWS):
            bound.graphs = dict.fromkeys(bound.graphs, lambda: None)  # the output of the run before remains

    simulation.fault = {RECORDED: spoil}
    (outcome,) = run(bundle, simulation, RECORDED)
    assert outcome.problem.startswith("other logits: relative difference")


def test_windows_that_cannot_reveal_old_inputs_prove_nothing(bundle, simulation):
    simulation.seconds = {RECORDED: 0.1}
    (outcome,) = run(bundle, simulation, RECORDED, windows=[WINDOWS[0]] * 3)
    assert "too similar" in outcome.problem


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("CUDA failure 700: an illegal memory access", "CUDA failure 700"),
        ("BFCArena::AllocateRawInternal Failed to allocate memory", "Failed to allocate memory"),
    ],
)
def test_a_candidate_that_raises_does_not_stop_the_next(bundle, simulation, driver, message, reason):
    def fail(bound):
        if len(bound.runs) == 3:
            raise RuntimeError(message)

    simulation.fault = {EXHAUSTIVE: fail}
    simulation.seconds = {EXHAUSTIVE: 0.1, RECORDED: 0.5}
    outcomes = run(bundle, simulation, EXHAUSTIVE, RECORDED)
    assert reason in outcomes[0].problem and outcomes[1].refusal == ""
    assert choose(outcomes, PLAIN)[0] == RECORDED
    assert driver.aborts == []


def test_plain_settings_that_fail_end_the_trial(bundle, simulation, driver):
    def fail(_bound):
        raise RuntimeError("CUDA failure 100: no device")

    simulation.fault = {PLAIN: fail}
    with pytest.raises(EngineError, match="no device"):
        run(bundle, simulation)
    assert driver.alive == {}


def test_the_time_of_the_trial_is_limited(bundle, simulation):
    simulation.seconds = {EXHAUSTIVE: 50.0}
    outcomes = run(bundle, simulation, EXHAUSTIVE, RECORDED, seconds=60.0)
    assert outcomes[0].refusal.startswith("less than 5% faster")
    assert outcomes[1].problem == "not measured within the 60 s of the trial"


def test_one_slow_turn_does_not_count(bundle, simulation):
    simulation.seconds = {EXHAUSTIVE: 0.9}
    runs = []

    def pause(_bound):
        runs.append(0)
        if len(runs) == 15:
            simulation.now += 1000.0

    simulation.fault = {EXHAUSTIVE: pause}
    (outcome,) = run(bundle, simulation, EXHAUSTIVE)
    assert len(runs) > 15 and outcome.window_seconds == pytest.approx(0.9)
    assert TURNS % 2 == 1


def outcome(settings, window, *, start=1.0, **fields):
    return Outcome(
        settings=settings, window_seconds=window, plain_seconds=1.0, start_seconds=start,
        plain_start_seconds=1.0, **fields,
    )  # fmt: skip


def test_settings_must_be_faster_by_the_margin():
    assert choose([outcome(EXHAUSTIVE, 0.96)], PLAIN)[0] == PLAIN
    assert choose([outcome(EXHAUSTIVE, 0.94)], PLAIN)[0] == EXHAUSTIVE
    assert choose([], PLAIN)[0] == PLAIN


def test_of_equally_fast_settings_the_simplest_is_chosen():
    assert choose([outcome(EXHAUSTIVE, 0.90), outcome(BOTH, 0.89)], PLAIN)[0] == EXHAUSTIVE
    assert choose([outcome(EXHAUSTIVE, 0.90), outcome(BOTH, 0.85)], PLAIN)[0] == BOTH


def test_a_longer_start_must_be_repaid():
    repaid = 1.0 + 0.5 * REPAID_WITHIN
    assert choose([outcome(EXHAUSTIVE, 0.5, start=repaid - 1)], PLAIN)[0] == EXHAUSTIVE
    late = outcome(EXHAUSTIVE, 0.5, start=repaid + 1)
    assert choose([late], PLAIN)[0] == PLAIN
    assert late.refusal.startswith("201.0 s longer start, repaid after 402 windows")


def test_start_is_that_of_opening_and_the_first_run(bundle, simulation):
    simulation.seconds, simulation.start = {EXHAUSTIVE: 0.5}, {EXHAUSTIVE: 7.0}
    (found,) = run(bundle, simulation, EXHAUSTIVE)
    assert (found.start_seconds, found.plain_start_seconds) == pytest.approx((7.5, 1.0))


def test_outcomes_are_json():
    found = [outcome(BOTH, 0.5), Outcome(settings=PLAIN, problem="x")]
    assert msgspec.json.decode(msgspec.json.encode(found), type=list[Outcome]) == found
