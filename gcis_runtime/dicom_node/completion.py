"""Decide when a series that arrives in pieces is complete."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class _Arrival:
    """When the last instance of a series arrived, and which open associations sent some of it."""

    last: float
    senders: set[int] = field(default_factory=set)


class Completion:
    """Series that are still arriving. Times are seconds of any clock; methods may be called from any thread.

    Args:
        quiet_seconds: A series is complete if nothing of it arrived for this time.
        at_release: A series is also complete once every association that sent some of it has ended.
    """

    def __init__(self, *, quiet_seconds: float, at_release: bool) -> None:
        self._quiet, self._at_release = quiet_seconds, at_release
        self._arriving: dict[str, _Arrival] = {}
        self._lock = threading.Lock()

    def arrived(self, series: str, now: float, *, sender: int | None = None) -> None:
        """Record an instance of a series, and the association that sent it."""
        with self._lock:
            found = self._arriving.setdefault(series, _Arrival(last=now))
            found.last = now
            if sender is not None:
                found.senders.add(sender)

    def ended(self, sender: int) -> None:
        """Record the end of an association."""
        with self._lock:
            for found in self._arriving.values():
                if sender in found.senders:
                    found.senders.discard(sender)
                    if self._at_release and not found.senders:
                        found.last = float("-inf")

    def take_complete(self, now: float) -> list[str]:
        """Return the series that are complete, and forget them."""
        with self._lock:
            done = [key for key, found in self._arriving.items() if now - found.last >= self._quiet]
            for key in done:
                del self._arriving[key]
        return done

    def __len__(self) -> int:
        with self._lock:
            return len(self._arriving)
