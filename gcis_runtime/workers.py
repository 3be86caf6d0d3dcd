"""The CPU threads that cut, add and restore while the network waits."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class Workers:
    """Threads that share one piece of work.

    Attributes:
        pool: Runs the parts.
        count: How many parts run side by side.
    """

    pool: Executor
    count: int


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """Start threads, and end them."""
    with ThreadPoolExecutor(count) as pool:
        yield Workers(pool=pool, count=count)
