"""The CPU threads that cut, add and restore while the network waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, kw_only=True, eq=False)
class Workers:
    """Threads that share one piece of work.

    Attributes:
        pool: Runs the parts; None: the calling thread does.
        count: How many parts run side by side.
    """

    pool: Executor | None
    count: int

    def each(self, work: Callable[..., object], *items: Iterable[object]) -> None:
        """Do `work` on each item, or on one of each of several, and wait until all is done."""
        list((map if self.pool is None else self.pool.map)(work, *items))

    def share(self, size: int, work: Callable[[slice], object], *, parts: int = 0) -> None:
        """Do `work` on consecutive parts of `size` items.

        Args:
            size: How many items.
            work: Does a part.
            parts: How many parts at least; one for each thread in any case.
        """
        parts = max(parts, self.count)
        cuts = [size * part // parts for part in range(parts + 1)]
        self.each(work, [slice(a, b) for a, b in pairwise(cuts) if a < b])


ALONE = Workers(pool=None, count=1)
"""The calling thread."""


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """Start threads, and end them."""
    with ThreadPoolExecutor(count) as pool:
        yield Workers(pool=pool, count=count)
