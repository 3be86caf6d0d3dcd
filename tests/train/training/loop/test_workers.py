"""Test the pool of threads: order, bound, errors, end of the threads, values that are computed once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from gcis_train.training.loop import workers
from gcis_train.training.loop.workers import MOST_WORKERS, Once, in_order, worker_count


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_results_come_in_the_order_of_the_items_and_not_far_ahead(workers: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    def slow_first(item: int) -> int:
        time.sleep(0.02 if item % 3 == 1 else 0)
        return item

    results = in_order(slow_first, items(), workers=workers)
    for expected in range(1, 13):
        assert next(results) == expected
        assert taken <= expected + workers + 2
    results.close()
    assert not any(t.name.startswith("gcis-feed") for t in threading.enumerate())


def test_as_many_calls_run_at_the_same_time_as_there_are_workers() -> None:
    together = threading.Barrier(3, timeout=10)
    assert len(list(in_order(lambda _: together.wait(), range(3), workers=3))) == 3


def test_an_error_comes_in_its_turn() -> None:
    def call(item: int) -> int:
        if item == 2:
            raise ValueError("item 2")
        return item

    results = in_order(call, range(9), workers=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="item 2"):
        next(results)
    assert not any(t.name.startswith("gcis-feed") for t in threading.enumerate())


def test_workers_use_one_thread_of_torch_and_the_caller_keeps_its_own() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert list(in_order(lambda _: torch.get_num_threads(), range(4), workers=2)) == [1] * 4
        assert torch.get_num_threads() == 2
        seen: list[int] = []
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert seen == [2]
    finally:
        torch.set_num_threads(before)


def test_a_value_is_computed_once_and_an_error_is_not_kept() -> None:
    once: Once[str, int] = Once()
    calls: list[int] = []

    def make() -> int:
        calls.append(1)
        time.sleep(0.05)
        if len(calls) == 1:
            raise ValueError("first")
        return 7

    with pytest.raises(ValueError, match="first"):
        once.get("a", make)
    assert list(in_order(lambda _: once.get("a", make), range(4), workers=4)) == [7] * 4
    assert len(calls) == 2
    once.forget("a")
    assert once.get("a", lambda: 8) == 8


def test_the_default_number_follows_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, processes, expected in ((1, 1, 1), (2, 1, 1), (8, 1, 7), (64, 1, MOST_WORKERS), (16, 4, 3)):
        monkeypatch.setattr(workers, "usable_cpus", lambda n=cores: n)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert worker_count(0) == expected
    assert worker_count(3) == 3
