"""Run tasks in a pool of threads, with results in the order of the tasks, and share values between threads.

Threads are used instead of processes, because NumPy, PyTorch and zlib release the interpreter lock while they
compute, and cases in memory need not be copied (docs/decisions/0011).
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import os
import threading
from collections.abc import Callable, Generator, Hashable, Iterable
from typing import Generic, TypeVar

import torch

from gcis_runtime.system.cpus import usable_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")
Key = TypeVar("Key", bound=Hashable)

MOST_WORKERS = 10
"""Largest default: ten threads draw 62 windows of 64 voxels per second, which keeps one H100 busy."""

_AHEAD = 2
"""Results that are kept ready in addition to one per worker."""


def worker_count(wanted: int) -> int:
    """Return the number of workers; for 0, the usable CPUs less one, from 1 to `MOST_WORKERS`.

    Several processes of one machine (`LOCAL_WORLD_SIZE`) share its cores.
    """
    if wanted:
        return wanted
    return min(max(usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1, 1), MOST_WORKERS)


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Generator[Result, None, None]:
    """Yield the results of a function in the order of the items, computed ahead by threads.

    At most `workers + 2` results are computed or wait at a time. Closing the generator waits for the calls in
    progress.

    Args:
        function: Function that may be called from several threads.
        items: Items, read from the thread of the caller; may be infinite.
        workers: Number of threads.

    Raises:
        BaseException: The exception of the first item, in order, whose call raised one.
    """
    remaining = iter(items)
    ready: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    pool = _pool(workers)
    try:
        for item in itertools.islice(remaining, workers + _AHEAD):
            ready.append(pool.submit(function, item))
        while ready:
            result = ready.popleft().result()
            for item in itertools.islice(remaining, 1):
                ready.append(pool.submit(function, item))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int) -> concurrent.futures.ThreadPoolExecutor:
    """Return a pool whose threads each use one thread of PyTorch.

    `torch.set_num_threads` sets the number of the calling thread and of threads that are started later. All
    workers are therefore started here, and the value for later threads is then restored.
    """
    before = torch.get_num_threads()
    started = threading.Barrier(workers + 1)

    def start() -> None:
        torch.get_num_threads()  # otherwise the first operation of the thread would set the number again
        torch.set_num_threads(1)
        started.wait()

    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="gcis-feed", initializer=start)
    for _ in range(workers):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(before)
    return pool


class Once(Generic[Key, Result]):
    """Values by key, each computed once, also if several threads ask for it at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[Key, concurrent.futures.Future[Result]] = {}

    def get(self, key: Key, make: Callable[[], Result]) -> Result:
        """Return the value of a key, computed by `make` at first access.

        Raises:
            BaseException: The exception of `make`, in every thread that waits; a later call tries again.
        """
        with self._lock:
            found = self._values.get(key)
            mine: concurrent.futures.Future[Result] = concurrent.futures.Future()
            if found is None:
                self._values[key] = mine
        if found is not None:
            return found.result()
        try:
            mine.set_result(make())
        except BaseException as error:
            self.forget(key)
            mine.set_exception(error)
        return mine.result()

    def forget(self, key: Key) -> None:
        """Remove a value, if there is one."""
        with self._lock:
            self._values.pop(key, None)
