"""Log the statistics of the routers after every epoch."""

from __future__ import annotations

from collections.abc import Callable

from gcis_train.routing.health import RouterHealth
from gcis_train.training.loop.run_folder import Scalars
from gcis_train.training.progress import Progress


class RouterLog:
    """Log of router statistics.

    Args:
        health: Returns router statistics of the current weights; None for a network without routers.
        progress: Progress display.
    """

    def __init__(self, health: Callable[[], RouterHealth] | None, progress: Progress) -> None:
        self._health, self._progress = health, progress
        self._collapsed: tuple[str, ...] = ()

    def watch(self, scalars: Scalars, step: int) -> RouterHealth | None:
        """Return the statistics and write them as scalars of a step; None without routers."""
        if self._health is None:
            return None
        health = self._health()
        for name, value in health.scalars().items():
            scalars.add(name, value, step)
        return health

    def report(self, health: RouterHealth) -> None:
        """Log the statistics, and a warning if another position has collapsed."""
        self._progress.log(health.line())
        if set(health.collapsed) - set(self._collapsed):
            self._progress.log(health.warning())
        self._collapsed = health.collapsed
