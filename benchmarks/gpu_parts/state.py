"""Store the result of each row on disk, so that an interrupted run can continue, and keep the time budget."""

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
"""Name of a row, `SECTION/...`, and the function that measures it."""

CUT_OFF = (
    "the process ended during this row (killed, crashed or out of time); remove its line to measure it again"
)
GRACE = 0.1
"""Share of the time budget by which a running row may exceed the time of its section."""


class NotHereError(Exception):
    """A row cannot be measured on this machine; the message gives the reason."""


class State:
    """Results by row name, stored in `rows.jsonl` of a folder.

    A row that was started and has no result ended its process; it is not measured again.

    Args:
        folder: Folder of the file; created if it does not exist.
        settings: Settings that results depend on.

    Raises:
        ValueError: The folder has results of other settings.
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
                f"{folder} has results of other settings: {json.dumps(lines[0].get('settings'))}"
            )
        for line in lines[1:]:
            if "begun" in line:
                self.results[line["begun"]] = {"failed": CUT_OFF}
            else:
                self.results[line["row"]] = line["result"]

    def begin(self, row: str) -> None:
        """Record that a row is being measured."""
        self._write({"begun": row})
        self.running = row

    def put(self, row: str, result: Result) -> None:
        """Store the result of a row."""
        self.results[row], self.running = result, None
        self._write({"row": row, "result": result})

    @staticmethod
    def begun(folder: Path) -> int:
        """Return the number of rows that were started in a folder."""
        file = folder / "rows.jsonl"
        return file.read_text().count('"begun"') if file.exists() else 0

    def _lines(self) -> list[dict[str, Any]]:
        """Return the complete lines; the last one may be truncated."""
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
    """Time budget of a run and of its sections.

    Args:
        seconds: Seconds of the whole run.
        shares: Share of each section; time that a section does not use goes to the following ones.
        clock: Returns the current time in seconds.
        started: Start of the run by that clock; None is now.
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
        """Return the remaining seconds of the whole run, at least 0."""
        return max(0.0, self._end - self._clock())

    def left(self, section: str) -> float:
        """Return the seconds in which a section may still start rows; negative when the time is over."""
        return self._until[section] - self._clock()

    def left_to_end(self, section: str) -> float:
        """Return the seconds after which a row is cut off: `GRACE` beyond the time of its section."""
        return max(0.0, min(self.left(section) + GRACE * self._seconds, self.left_in_all()))


class HardEnd:
    """Context manager that ends the process after a time, also within a call of a library.

    A thread ends the process, since a compiler or a driver may not return to Python for minutes.

    Args:
        seconds: Seconds from the start of the `with` block.
        last: Called before the end; returns the exit code.
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
