"""Queue jobs, and estimate when a client that was refused should try again."""

from __future__ import annotations

import math
import threading
from collections import deque

from gcis_runtime.serve.problems import ServeError

_FIRST_SECONDS = 5.0
"""Assumed seconds per job before one was measured."""
_LONGEST = 600
_SMOOTHING = 0.3


class JobQueue:
    """A bounded queue of job identifiers. Its methods may be called from any thread.

    Args:
        limit: Number of jobs above which `refuse_if_full` refuses.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._jobs: deque[str] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._refused = 0
        self._seconds = _FIRST_SECONDS

    def __len__(self) -> int:
        return len(self._jobs)

    def position(self, job: str) -> int | None:
        """Return the number of jobs before a job; None if it is not queued."""
        with self._changed:
            return self._jobs.index(job) if job in self._jobs else None

    def refuse_if_full(self) -> None:
        """Raise an error with status 429 if the queue is full; each refusal lengthens the recommended wait.

        Raises:
            ServeError: The queue is full.
        """
        with self._changed:
            if len(self._jobs) < self._limit:
                self._refused = 0
                return
            self._refused += 1
            wait = self.retry_after(self._refused)
            raise ServeError(
                "the queue is full",
                status=429,
                retry_after=wait,
                received=f"a job while {len(self._jobs)} are queued",
                expected=f"at most {self._limit} queued jobs",
                fix=f"Try again in {wait} s.",
            )

    def retry_after(self, refused: int) -> int:
        """Return seconds to wait after a number of refusals in a row.

        One place becomes free per job; the clients that were refused before share the places that become free
        first.
        """
        return min(_LONGEST, max(1, math.ceil(self._seconds * max(1, refused))))

    def put(self, job: str) -> None:
        """Add a job; an accepted one is never refused."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def take(self) -> str | None:
        """Wait for a job and remove it from the queue; None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._jobs)
            return None if self._closed else self._jobs.popleft()

    def withdraw(self, job: str) -> bool:
        """Remove a job that was not started; return whether it was queued."""
        with self._changed:
            if job not in self._jobs:
                return False
            self._jobs.remove(job)
            return True

    def close(self) -> None:
        """End all waiting calls of `take`; jobs stay in the queue."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def measured(self, seconds: float) -> None:
        """Record the time of a job for the recommended wait."""
        with self._changed:
            self._seconds += _SMOOTHING * (seconds - self._seconds)
