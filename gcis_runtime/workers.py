"""The CPU threads that cut, add and restore while the network waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, kw_only=True, eq=False)
class Workers:
    """Threads that share one piece of work.

    Attributes:
        pool: Runs the parts.
        count: How many parts run side by side.
    """

    pool: Executor
    count: int

    def share(self, size: int, work: Callable[[slice], object]) -> None:
        """Do `work` on consecutive parts of `size` items, side by side."""
        cuts = [size * part // self.count for part in range(self.count + 1)]
        list(self.pool.map(work, [slice(a, b) for a, b in pairwise(cuts) if a < b]))


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """Start threads, and end them."""
    with ThreadPoolExecutor(count) as pool:
        yield Workers(pool=pool, count=count)
