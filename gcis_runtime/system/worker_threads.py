"""Share array operations among CPU threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, kw_only=True, eq=False)
class Workers:
    """Threads that share a task.

    Attributes:
        pool: Thread pool; None runs everything in the calling thread.
        count: Number of parts that run in parallel.
    """

    pool: Executor | None
    count: int

    def each(self, work: Callable[..., object], *items: Iterable[object]) -> None:
        """Call `work` with each item, as `map` does, and wait for all calls."""
        list((map if self.pool is None else self.pool.map)(work, *items))

    def share(self, size: int, work: Callable[[slice], object], *, parts: int = 0) -> None:
        """Split `size` items into consecutive parts and call `work` with each part.

        Args:
            size: Number of items.
            work: Receives the slice of a part.
            parts: Smallest number of parts; never fewer than threads.
        """
        parts = max(parts, self.count)
        cuts = [size * part // parts for part in range(parts + 1)]
        self.each(work, [slice(a, b) for a, b in pairwise(cuts) if a < b])


ALONE = Workers(pool=None, count=1)
"""Workers that run everything in the calling thread."""


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """Start a pool of `count` threads, and shut it down after the block."""
    with ThreadPoolExecutor(count) as pool:
        yield Workers(pool=pool, count=count)
