"""Rows that were measured, kept on disk one by one: a run that was cut off goes on where it stopped."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Result = dict[str, Any]
Row = tuple[str, Callable[[], Result]]
"""A row's name, `SECTION/...`, and what measures it."""

CUT_OFF = (
    "the process ended while it ran (killed, crashed or out of time); remove it from the state to try again"
)
GRACE = 0.1
"""Share of the run's time by which a row that was begun in time may go beyond its section's."""


class NotHereError(Exception):
    """A row cannot be measured on this machine; its text says why."""


class State:
    """Results by row name, in `rows.jsonl` of a folder.

    A row that was begun and never ended took the process with it: it is not tried again.

    Args:
        folder: Made where it is missing.
        settings: What results depend on.

    Raises:
        ValueError: The folder holds results of other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._file = folder, folder / "rows.jsonl"
        self.results: dict[str, Result] = {}
        self.running: str | None = None
        lines = self._lines()
        if not lines:
            self._write({"settings": settings})
            return
        if lines[0].get("settings") != settings:
            raise ValueError(
                f"{folder} holds results of other settings: {json.dumps(lines[0].get('settings'))}"
            )
        for line in lines[1:]:
            if "begun" in line:
                self.results[line["begun"]] = {"failed": CUT_OFF}
            else:
                self.results[line["row"]] = line["result"]

    def begin(self, row: str) -> None:
        """Note that a row is being measured."""
        self._write({"begun": row})
        self.running = row

    def put(self, row: str, result: Result) -> None:
        """Keep a row's result."""
        self.results[row], self.running = result, None
        self._write({"row": row, "result": result})

    @staticmethod
    def begun(folder: Path) -> int:
        """Count the rows that were begun in a folder, whatever became of them."""
        file = folder / "rows.jsonl"
        return file.read_text().count('"begun"') if file.exists() else 0

    def _lines(self) -> list[dict[str, Any]]:
        """Return the lines that are whole: the last may have been cut off."""
        found = []
        for text in self._file.read_text().splitlines() if self._file.exists() else []:
            try:
                found.append(json.loads(text))
            except json.JSONDecodeError:
                break
        return found

    def _write(self, line: dict[str, Any]) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")


class Budget:
    """Seconds that a run may take, and until when each section may begin a row.

    Args:
        seconds: Of the whole run.
        shares: Share of each section; what one leaves over the next ones have.
        clock: What time it is, in seconds.
        started: When the run began, by that clock; None: now.
    """

    def __init__(
        self,
        seconds: float,
        shares: dict[str, float],
        *,
        clock: Callable[[], float] = time.monotonic,
        started: float | None = None,
    ) -> None:
        self._clock, start = clock, clock() if started is None else started
        self._seconds, self._end = seconds, start + seconds
        self._until: dict[str, float] = {}
        done = 0.0
        for section, share in shares.items():
            done += share
            self._until[section] = start + seconds * done / sum(shares.values())

    def left_in_all(self) -> float:
        """Return the seconds that are left of the whole run, at least 0."""
        return max(0.0, self._end - self._clock())

    def left(self, section: str) -> float:
        """Return the seconds in which a section may still begin rows; negative when they are over."""
        return self._until[section] - self._clock()

    def left_to_end(self, section: str) -> float:
        """Return the seconds after which a section's row is cut off: `GRACE` beyond its own time."""
        return max(0.0, min(self.left(section) + GRACE * self._seconds, self.left_in_all()))


class HardEnd:
    """Ends the process when the time of what is in its `with` is over, in the middle of a row too.

    A thread of its own does it, since a compiler or a driver may not come back to Python for minutes, and
    machines are lent for minutes.

    Args:
        seconds: From the beginning of the `with`.
        last: What is done before; returns the exit code.
    """

    def __init__(self, seconds: float, last: Callable[[], int]) -> None:
        self._last = last
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        code = 1
        try:
            code = self._last()
        finally:
            os._exit(code)
