"""Where unfinished sums wait for the next slab of windows: in memory, or in a file where memory is short.

Rows are views ordered (channel, a, u, v) as in `sums`; the last channel is the sum of weights.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import OutputError
from gcis_runtime.system.worker_threads import Workers

STAGED_BYTES = 1 << 24
"""Rows are brought to a file and back in pieces of about this size."""
_MOUNTS = Path("/proc/mounts")
_IN_MEMORY = ("tmpfs", "ramfs")


class Waiting(Protocol):
    """Sums of rows that wait."""

    def take(self, start: int, into: NDArray[np.float32]) -> None:
        """Copy what waits of some rows.

        Args:
            start: First row.
            into: (C + 1, planes, rows, v): the first planes that wait.
        """
        ...

    def keep(self, start: int, rows: NDArray[np.float32]) -> None:
        """Let rows wait.

        Args:
            start: First row.
            rows: (C + 1, planes, rows, v).
        """
        ...

    def close(self) -> None:
        """Free it; may be called again."""
        ...


class MemoryWaiting:
    """See `Waiting`.

    Args:
        shape: Channels with weights, then the grid's size in its own axis order, planes that wait for the
            slab axis.
        order: Slab axis, `u`, `v`.
        workers: Copy channels.

    Attributes:
        sums: (C + 1, a, u, v).
    """

    def __init__(self, shape: Sequence[int], order: Sequence[int], workers: Workers) -> None:
        self.sums = np.zeros(shape, dtype=np.float32).transpose(0, *(1 + axis for axis in order))
        self._workers = workers

    def take(self, start: int, into: NDArray[np.float32]) -> None:
        """See `Waiting.take`."""
        planes, rows = into.shape[1:3]
        self._workers.each(np.copyto, into, self.sums[:, :planes, start : start + rows])

    def keep(self, start: int, rows: NDArray[np.float32]) -> None:
        """See `Waiting.keep`."""
        planes, count = rows.shape[1:3]
        self._workers.each(np.copyto, self.sums[:, :planes, start : start + count], rows)

    def close(self) -> None:
        """See `Waiting.close`."""


class FileWaiting:
    """See `Waiting`: a file without a name in the folder for temporary files, which goes with the process.

    Args:
        shape: As `MemoryWaiting`'s.
        order: As `MemoryWaiting`'s.
        workers: Copy channels.

    Raises:
        OutputError: The file cannot be made.
    """

    def __init__(self, shape: Sequence[int], order: Sequence[int], workers: Workers) -> None:
        self._workers = workers
        axis, _, v = order
        self._row = shape[0] * shape[1 + axis] * shape[1 + v]  # floats of a row
        rows = max(1, STAGED_BYTES // (4 * max(1, self._row)))
        # A row's channels lie together, each in the grid's axis order.
        size = [rows, shape[0], *(shape[1 + a] for a in sorted((axis, v)))]
        self._stage = np.empty(size, dtype=np.float32)
        later = (2, 3) if axis < v else (3, 2)
        self._view = self._stage.transpose(1, later[0], 0, later[1])
        try:
            self._file = tempfile.TemporaryFile(buffering=0, prefix="gcis-")  # noqa: SIM115 (see `close`)
        except OSError as error:
            raise _ours(error) from error

    def take(self, start: int, into: NDArray[np.float32]) -> None:
        """See `Waiting.take`."""
        planes = into.shape[1]
        for first, count in self._pieces(into.shape[2]):
            bytes_in = self._stage[:count].data.cast("B")
            self._file.seek(4 * self._row * (start + first))
            done = 0
            while done < len(bytes_in):
                read = self._file.readinto(bytes_in[done:])
                if not read:
                    raise OutputError("the file for sums that wait ended early", received=f"{done} bytes")
                done += read
            target = into[:, :, first : first + count]
            self._workers.each(np.copyto, target, self._view[:, :planes, :count])

    def keep(self, start: int, rows: NDArray[np.float32]) -> None:
        """See `Waiting.keep`.

        Raises:
            OutputError: No space is left.
        """
        planes = rows.shape[1]
        for first, count in self._pieces(rows.shape[2]):
            source = rows[:, :, first : first + count]
            self._workers.each(np.copyto, self._view[:, :planes, :count], source)
            bytes_out = self._stage[:count].data.cast("B")
            try:
                self._file.seek(4 * self._row * (start + first))
                done = 0
                while done < len(bytes_out):
                    done += self._file.write(bytes_out[done:]) or 0
            except OSError as error:
                raise _ours(error) from error

    def _pieces(self, rows: int) -> list[tuple[int, int]]:
        step = len(self._stage)
        return [(first, min(step, rows - first)) for first in range(0, rows, step)]

    def close(self) -> None:
        """See `Waiting.close`."""
        self._file.close()


def room_for_file(size: int) -> str | None:
    """Tell why a file of some bytes would not do; None where it would.

    A folder for temporary files that lies in memory itself is no help, nor is one without space.
    """
    folder = Path(tempfile.gettempdir())
    if _file_system(folder) in _IN_MEMORY:
        return f"{folder} lies in memory: set TMPDIR to a folder on a disk"
    free = shutil.disk_usage(folder).free
    return None if free > size else f"{folder} has {free >> 20} MiB free, {size >> 20} are needed"


def _file_system(folder: Path) -> str | None:
    """Return the kind of file system that a folder lies on; None where the system does not say."""
    try:
        mounts = [line.split() for line in _MOUNTS.read_text().splitlines()]
    except OSError:
        return None
    resolved = folder.resolve()
    found = [(len(point), kind) for _, point, kind, *_ in mounts if resolved.is_relative_to(point)]
    return max(found)[1] if found else None


def _ours(error: OSError) -> OutputError:
    return OutputError(
        "sums that wait cannot be kept in a file",
        received=os.strerror(error.errno) if error.errno else str(error),
        expected=f"space for temporary files in {tempfile.gettempdir()}",
        fix="Free space, set TMPDIR to another folder, or allow more with --max-memory.",
    )
