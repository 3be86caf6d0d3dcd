"""Test the supervision of workers with a cluster that is only simulated: losses, refusals and memory."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gcis_runtime.engines.info import EngineInfo
from gcis_runtime.errors import ClusterError, MemoryLimitError
from gcis_runtime.fleet.needs import Needs
from gcis_runtime.fleet.pool import Finished, Lost, NotReady, Ready, Slot
from gcis_runtime.fleet.slots import Node, divide
from gcis_runtime.fleet.supervisor import Limits, Supervisor
from gcis_runtime.pipeline.identity import BundleIdentity, Identity

ENGINE = EngineInfo(name="onnx", version="1", device="cpu", precision="fp32", threads=1)
IDENTITY = Identity(bundle=BundleIdentity(name="b", sha256="1" * 64, crop=False), labels=(), engine=ENGINE)


@dataclass(frozen=True)
class Case:
    name: str

    @property
    def image(self):
        return Path(f"{self.name}.nii.gz")


class Clock:
    """A clock that only proceeds when somebody waits."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Simulated:
    """A cluster in which cases and nodes end as the test says."""

    def __init__(self, slots, *, deadly=(), start=None, lose=(), seed=0):
        self.room, self.clock = list(slots), Clock()
        self.deadly, self.start, self.lose = set(deadly), start or (lambda _slot: IDENTITY), set(lose)
        self.workers, self.events, self.held = {}, deque(), {}
        self.most_held, self.submitted, self.finished = 0, [], 0
        self.random = random.Random(seed)

    def slots(self):
        return self.room

    def describe(self):
        return f"{len(self.room)} slots"

    def hire(self, worker, slot):
        self.workers[worker], self.held[worker] = slot, []
        outcome = self.start(slot)
        if outcome is None:
            return  # it waits for resources
        if isinstance(outcome, str):
            self.events.append(NotReady(worker=worker, error=outcome))
        elif isinstance(outcome, Exception):
            self.events.append(Lost(worker=worker, reason=str(outcome)))
        else:
            self.events.append(Ready(worker=worker, identity=outcome, version="1"))

    def submit(self, worker, job):
        self.submitted.append(job.name)
        self.held[worker].append(job.name)
        self.most_held = max(self.most_held, len(self.held[worker]))

    def dismiss(self, worker):
        self.workers.pop(worker), self.held.pop(worker)

    def wait(self, seconds):
        self.clock.now += seconds
        if self.clock.now > 3600:
            raise AssertionError("the run does not end")
        if self.events:
            return [self.events.popleft()]
        busy = [worker for worker, held in self.held.items() if held]
        if not busy:
            return []
        worker = self.random.choice(busy)
        if self.deadly & set(self.held[worker]) or self.finished in self.lose:
            self.lose.discard(self.finished)
            self.dismiss(worker)
            return [Lost(worker=worker, reason="killed")]
        self.finished += 1
        return [Finished(worker=worker, case=self.held[worker].pop(0))]


def slots(*memory, node="n"):
    return [Slot(node=node, number=n, place=node, cpus=1, gpus=0, memory=m) for n, m in enumerate(memory)]


def run(pool, cases, *, memory=None, limits=None, workers=99):
    jobs, ended, first = [Case(name) for name in cases], {}, []
    supervisor = Supervisor(
        pool, workers=workers, memory=memory or {}, version="1", limits=limits, clock=pool.clock
    )

    def finished(job, event):
        assert job.name not in ended  # once
        ended[job.name] = event.error

    assert supervisor.start() == IDENTITY
    supervisor.run(jobs, on_first=lambda job: first.append(job.name), on_finished=finished)
    assert sorted(first) == sorted(set(pool.submitted))  # once, and only those that ran
    return ended


NAMES = [f"c{n}" for n in range(20)]


@pytest.mark.parametrize("seed", range(10))
def test_every_case_ends_once_whatever_is_lost(seed):
    pool = Simulated(slots(1, 1, 1), deadly={"c3", "c11"}, lose={2, 3, 9}, seed=seed)
    ended = run(pool, NAMES)
    assert sorted(ended) == sorted(NAMES)
    assert {name for name, error in ended.items() if error} == {"c3", "c11"}
    assert "its worker ended 3 times" in str(ended["c3"])
    assert max(pool.submitted.count(name) for name in NAMES) == 3
    assert pool.most_held == 2


def test_a_suspect_runs_alone():
    pool = Simulated(slots(1), deadly={"c0"})
    ended = run(pool, ["c0", "c1"])
    assert {n for n, error in ended.items() if error} == {"c0"}
    assert pool.submitted.count("c1") == 2  # lost once with c0, then done


def test_a_memory_limit_keeps_one_case_per_worker():
    pool = Simulated(slots(1, 1))
    run(pool, NAMES, limits=Limits(depth=1))
    assert pool.most_held == 1


def test_a_case_that_no_node_holds_fails_and_others_find_their_node():
    pool = Simulated([*slots(10), *slots(50, node="m")])
    ended = run(pool, ["small", "large", "huge"], memory={"small": 5, "large": 40, "huge": 60}, workers=1)
    assert isinstance(ended.pop("huge"), MemoryLimitError)
    assert ended == {"small": None, "large": None} and "huge" not in pool.submitted


def test_a_large_case_gets_a_worker_although_small_ones_fill_the_number():
    pool = Simulated(slots(10))
    jobs, ended = [Case("small"), Case("large")], []
    supervisor = Supervisor(pool, workers=1, memory={"large": 40}, version="1", clock=pool.clock)
    supervisor.start()
    pool.room += slots(50, node="m")  # a node that was added
    supervisor.run(jobs, on_finished=lambda job, event: ended.append((job.name, event.error)))
    assert sorted(ended) == [("large", None), ("small", None)]


def test_a_new_node_is_used_and_workers_beyond_the_cases_are_not_kept():
    pool = Simulated(slots(1, 1, 1, 1))
    run(pool, ["a", "b"])
    assert len(pool.workers) == 2


@pytest.mark.parametrize(
    "other",
    [
        replace(IDENTITY, engine=replace(ENGINE, name="openvino")),
        replace(IDENTITY, engine=replace(ENGINE, precision="bf16")),
        replace(IDENTITY, tf32=True),
        replace(IDENTITY, bundle=replace(IDENTITY.bundle, sha256="2" * 64)),
        replace(IDENTITY, coarse=IDENTITY.bundle),
    ],
)
def test_nodes_that_compute_differently_are_refused(other):
    pool = Simulated(slots(1, 1), start=lambda slot: other if slot.number else IDENTITY)
    with pytest.raises(ClusterError, match="two nodes compute with different engines or bundles"):
        run(pool, NAMES)


def test_versions_and_threads_of_an_engine_may_differ():
    other = replace(IDENTITY, engine=replace(ENGINE, version="2", threads=8))
    pool = Simulated(slots(1, 1), start=lambda slot: other if slot.number else IDENTITY)
    assert not any(run(pool, NAMES).values())


def test_another_version_of_gcis_is_refused():
    pool = Simulated(slots(1))
    supervisor = Supervisor(pool, workers=1, memory={}, version="2", clock=pool.clock)
    with pytest.raises(ClusterError, match=r"n has another version of gCIS; received 1; expected 2"):
        supervisor.start()


def test_a_node_that_cannot_open_the_engine_is_left_out(caplog):
    pool = Simulated(slots(1, 1), start=lambda slot: IDENTITY if slot.number else "no engine here")
    assert not any(run(pool, NAMES).values())
    assert len(caplog.records) <= 1


def test_no_engine_anywhere_ends_the_run():
    with pytest.raises(ClusterError, match=r"no worker.*received n: no engine here"):
        run(Simulated(slots(1, 1), start=lambda _slot: "no engine here"), NAMES)


def test_workers_that_end_while_they_start_are_not_hired_for_ever():
    hired = []
    pool = Simulated(slots(1), start=lambda slot: (hired.append(slot), OSError("ended"))[1])
    with pytest.raises(ClusterError, match="received n: ended"):
        run(pool, NAMES)
    assert len(hired) == 3


def test_a_lost_cluster_ends_the_run_and_says_how_to_continue():
    pool = Simulated(slots(1), lose={5})

    def lost(worker, slot):
        pool.room.clear()

    supervisor = Supervisor(pool, workers=1, memory={}, version="1", clock=pool.clock)
    supervisor.start()
    pool.hire = lost
    real = pool.wait

    def wait(seconds):
        events = real(seconds)
        if any(isinstance(event, Lost) for event in events):
            pool.room.clear()
        return events

    pool.wait = wait
    with pytest.raises(ClusterError, match=r"no worker, 15 images left.*--resume"):
        supervisor.run([Case(name) for name in NAMES], on_finished=lambda *_: None)
    assert pool.clock.now >= Limits().alone_seconds


def test_nothing_to_do_is_done():
    pool = Simulated(slots(1))
    assert run(pool, []) == {} and not pool.workers


NODE = Node(name="n", place="n", cpus=8, gpus=0, memory=100)
NEED = [Needs(usual=20, least=10)]


@pytest.mark.parametrize(
    ("node", "needs", "options", "found"),
    [
        (NODE, NEED, {"threads": None, "gpu": False}, [(8, 0, 20)]),
        (NODE, NEED, {"threads": 2, "gpu": False}, [(2, 0, 20)] * 4),
        (NODE, [Needs(usual=60, least=40)], {"threads": 2, "gpu": False}, [(2, 0, 50)] * 2),
        (NODE, [*NEED, Needs(usual=900, least=800)], {"threads": 4, "gpu": False}, [(4, 0, 20)] * 2),
        (NODE, [Needs(usual=900, least=800)], {"threads": 4, "gpu": False}, []),
        (NODE, NEED, {"threads": 9, "gpu": False}, []),
        (NODE, NEED, {"threads": None, "gpu": True}, []),
        (replace(NODE, gpus=2), NEED, {"threads": None, "gpu": True}, [(4, 1, 20)] * 2),
        (replace(NODE, gpus=2), NEED, {"threads": 3, "gpu": True}, [(3, 1, 20)] * 2),
        (replace(NODE, cpus=0), NEED, {"threads": None, "gpu": False}, []),
        (replace(NODE, cpus=1, gpus=2), NEED, {"threads": None, "gpu": True}, [(1, 1, 20)]),
    ],
)
def test_slots_divide_a_node(node, needs, options, found):
    made = divide([node], needs, **options)
    assert [(slot.cpus, slot.gpus, slot.memory) for slot in made] == found
    assert sum(slot.cpus for slot in made) <= node.cpus and sum(s.memory for s in made) <= node.memory
    assert len({(slot.node, slot.number) for slot in made}) == len(made)
