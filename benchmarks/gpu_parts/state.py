"""Store the result of each row on disk, so that an interrupted run can continue, and keep the time budget."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Result = dict[str, Any]

CUT_OFF = (
    "the process ended during this row (killed, crashed or out of time); remove its line to measure it again"
)
LONGEST = 0.2
"""Largest share of the time budget that a row may take."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measurement.

    Attributes:
        name: `SECTION/...`.
        measure: Measures the row.
        worth: Rows of 1 are measured first, then those of 2 and 3.
        share: Largest share of the time budget that the row may take.
    """

    name: str
    measure: Callable[[], Result]
    worth: int = 3
    share: float = LONGEST

    @property
    def section(self) -> str:
        """Section of the row."""
        return self.name.partition("/")[0]


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
    """Time budget of a run.

    Args:
        seconds: Seconds of the whole run.
        clock: Returns the current time in seconds.
        started: Start of the run by that clock; None is now.
    """

    def __init__(
        self, seconds: float, *, clock: Callable[[], float] = time.monotonic, started: float | None = None
    ) -> None:
        self._clock, start = clock, clock() if started is None else started
        self._seconds, self._end = seconds, start + seconds

    def left(self) -> float:
        """Return the remaining seconds of the run, at least 0."""
        return max(0.0, self._end - self._clock())

    def left_for(self, row: Row) -> float:
        """Return the seconds after which a row that starts now is cut off."""
        return min(row.share * self._seconds, self.left())


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
