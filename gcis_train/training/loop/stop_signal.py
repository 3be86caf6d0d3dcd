"""Record SIGINT and SIGTERM, so that a training can stop after the current step."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class StopSignal:
    """Context in which the first SIGINT or SIGTERM is recorded and the second raises `KeyboardInterrupt`.

    Attributes:
        received: Whether a signal was received.
    """

    def __init__(self) -> None:
        self.received = False
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> StopSignal:
        self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.received = True
        signal.signal(number, signal.default_int_handler)
