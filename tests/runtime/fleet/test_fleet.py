"""Test how a run follows the cases of a cluster: progress, old reports, and results that do not arrive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from gcis_runtime.fleet import ray_executor
from gcis_runtime.fleet.pool import Finished, Progressed
from gcis_runtime.fleet.ray_executor import Fleet
from gcis_runtime.fleet.supervisor import Supervisor
from gcis_runtime.runs.callbacks import RunCallbacks
from tests.runtime.fleet.test_supervisor import IDENTITY, Simulated, slots


@dataclass(frozen=True)
class Written:
    name: str
    folder: Path

    @property
    def image(self):
        return self.folder / f"{self.name}.nii.gz"

    labels = masks = probabilities = image

    @property
    def report(self):
        return self.folder / f"{self.name}_seg.json"


class Writing(Simulated):
    """A cluster that writes a report for each case, except for those in `silent`."""

    silent = ()

    def submit(self, worker, job):
        super().submit(worker, job)
        assert not job.report.exists()  # that of an earlier run was removed
        self.jobs = {**getattr(self, "jobs", {}), job.name: job}

    def wait(self, seconds):
        return [self.written(e) if isinstance(e, Finished) else e for e in super().wait(seconds)]

    def written(self, event):
        if event.case not in self.silent:
            self.jobs[event.case].report.write_text("{}")
        return Finished(worker=event.worker, case=event.case, report=object())

    def progress(self):
        names = [name for held in self.held.values() for name in held]
        return [
            Progressed(case=name, forecast=None, finished=1, total=2) for name in (*names, "of another run")
        ]


@pytest.fixture
def start(tmp_path):
    def run(pool, names, callbacks=None):
        jobs = [Written(name, tmp_path) for name in names]
        for job in jobs:
            job.report.write_text("of an earlier run")
        supervisor = Supervisor(pool, workers=2, memory={}, version="1", clock=pool.clock)
        supervisor.start()
        fleet = Fleet(identity=IDENTITY, notes=(), pool=pool, supervisor=supervisor)
        outcomes = []
        fleet.run(jobs, on_done=outcomes.append, callbacks=callbacks or RunCallbacks())
        return {outcome.job.name: outcome for outcome in outcomes}

    return run


def test_progress_is_passed_on_and_every_case_has_an_outcome(start):
    seen = []
    callbacks = RunCallbacks(on_progress=lambda job: lambda *numbers: seen.append((job.name, *numbers)))
    outcomes = start(Writing(slots(1)), ["a", "b", "c"], callbacks)
    assert {name: outcome.error for name, outcome in outcomes.items()} == {"a": None, "b": None, "c": None}
    assert ("b", 1, 2) in seen and {name for name, *_ in seen} <= {"a", "b", "c"}


def test_results_that_do_not_arrive_here_are_an_error(start, monkeypatch):
    monkeypatch.setattr(ray_executor, "_VISIBLE_SECONDS", 0.3)
    pool = Writing(slots(1, 1))
    pool.silent = ("b",)
    outcomes = start(pool, ["a", "b", "c"])
    assert {name for name, outcome in outcomes.items() if outcome.error} == {"b"}
    assert "an output folder that all machines share" in str(outcomes["b"].error)
    assert outcomes["b"].report is None
