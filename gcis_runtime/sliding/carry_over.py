"""Store unfinished sums between slabs, in memory or, if memory is short, in a temporary file.

Arrays are views ordered (channel, a, u, v) as in `accumulator`; the last channel is the sum of weights. A
line has one index along `u`, a plane one index along the slab axis `a`.
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
from gcis_runtime.spec import FLOAT32_BYTES
from gcis_runtime.system.worker_threads import Workers

STAGED_BYTES = 1 << 24
"""Approximate number of bytes copied to or from a file at a time."""
_MOUNTS = Path("/proc/mounts")
_IN_MEMORY = ("tmpfs", "ramfs")


class CarryOver(Protocol):
    """Storage for sums of logits and weights between slabs."""

    def load(self, start: int, into: NDArray[np.float32]) -> None:
        """Copy stored sums into an array.

        Args:
            start: First line.
            into: (C + 1, planes, lines, v) output: the first stored planes.
        """
        ...

    def store(self, start: int, sums: NDArray[np.float32]) -> None:
        """Copy sums into the storage.

        Args:
            start: First line.
            sums: (C + 1, planes, lines, v), from the first stored plane on.
        """
        ...

    def close(self) -> None:
        """Free the storage. May be called again."""
        ...


class MemoryCarryOver:
    """`CarryOver` in memory.

    Args:
        shape: Number of channels including weights, then the shape of the grid (X, Y, Z) with the number of
            stored planes along the slab axis.
        order: Slab axis, `u`, `v`.
        workers: Threads that copy channels.

    Attributes:
        sums: (C + 1, a, u, v).
    """

    def __init__(self, shape: Sequence[int], order: Sequence[int], workers: Workers) -> None:
        self.sums = np.zeros(shape, dtype=np.float32).transpose(0, *(1 + axis for axis in order))
        self._workers = workers

    def load(self, start: int, into: NDArray[np.float32]) -> None:
        """See `CarryOver.load`."""
        planes, lines = into.shape[1:3]
        self._workers.each(np.copyto, into, self.sums[:, :planes, start : start + lines])

    def store(self, start: int, sums: NDArray[np.float32]) -> None:
        """See `CarryOver.store`."""
        planes, lines = sums.shape[1:3]
        self._workers.each(np.copyto, self.sums[:, :planes, start : start + lines], sums)

    def close(self) -> None:
        """See `CarryOver.close`."""


class FileCarryOver:
    """`CarryOver` in an unnamed file in the folder for temporary files, deleted when the process ends.

    Args:
        shape: As for `MemoryCarryOver`.
        order: As for `MemoryCarryOver`.
        workers: Threads that copy channels.

    Raises:
        OutputError: The file cannot be created.
    """

    def __init__(self, shape: Sequence[int], order: Sequence[int], workers: Workers) -> None:
        self._workers = workers
        axis, _, v = order
        line = shape[0] * shape[1 + axis] * shape[1 + v]
        self._line_bytes = FLOAT32_BYTES * line
        lines = max(1, STAGED_BYTES // (FLOAT32_BYTES * max(1, line)))
        # The channels of a line are contiguous, each in the axis order of the grid.
        size = [lines, shape[0], *(shape[1 + a] for a in sorted((axis, v)))]
        self._stage = np.empty(size, dtype=np.float32)
        later = (2, 3) if axis < v else (3, 2)
        self._view = self._stage.transpose(1, later[0], 0, later[1])
        try:
            self._file = tempfile.TemporaryFile(buffering=0, prefix="gcis-")  # noqa: SIM115 (see `close`)
        except OSError as error:
            raise _file_error(error) from error

    def load(self, start: int, into: NDArray[np.float32]) -> None:
        """See `CarryOver.load`."""
        planes = into.shape[1]
        for first, count in self._pieces(into.shape[2]):
            bytes_in = self._stage[:count].data.cast("B")
            self._file.seek(self._line_bytes * (start + first))
            done = 0
            while done < len(bytes_in):
                read = self._file.readinto(bytes_in[done:])
                if not read:
                    raise OutputError(
                        "the temporary file for unfinished sums ended early",
                        received=f"{done} bytes",
                        expected=f"{len(bytes_in)} bytes",
                        fix="Run again; check the disk of the folder for temporary files.",
                    )
                done += read
            target = into[:, :, first : first + count]
            self._workers.each(np.copyto, target, self._view[:, :planes, :count])

    def store(self, start: int, sums: NDArray[np.float32]) -> None:
        """See `CarryOver.store`.

        Raises:
            OutputError: No space is left.
        """
        planes = sums.shape[1]
        for first, count in self._pieces(sums.shape[2]):
            source = sums[:, :, first : first + count]
            self._workers.each(np.copyto, self._view[:, :planes, :count], source)
            bytes_out = self._stage[:count].data.cast("B")
            try:
                self._file.seek(self._line_bytes * (start + first))
                done = 0
                while done < len(bytes_out):
                    done += self._file.write(bytes_out[done:]) or 0
            except OSError as error:
                raise _file_error(error) from error

    def _pieces(self, lines: int) -> list[tuple[int, int]]:
        """Split lines into pieces that fit the staging buffer: first line and number of lines of each."""
        step = len(self._stage)
        return [(first, min(step, lines - first)) for first in range(0, lines, step)]

    def close(self) -> None:
        """See `CarryOver.close`."""
        self._file.close()


def room_for_file(size: int) -> str | None:
    """Return why a temporary file of `size` bytes cannot be used, or None if it can.

    The folder for temporary files must have enough space, and must not lie in memory itself.
    """
    folder = Path(tempfile.gettempdir())
    if _file_system(folder) in _IN_MEMORY:
        return f"{folder} lies in memory: set TMPDIR to a folder on a disk"
    free = shutil.disk_usage(folder).free
    return None if free > size else f"{folder} has {free >> 20} MiB free, {size >> 20} are needed"


def _file_system(folder: Path) -> str | None:
    """Return the type of the file system of a folder, or None if it is unknown."""
    try:
        mounts = [line.split() for line in _MOUNTS.read_text().splitlines()]
    except OSError:
        return None
    resolved = folder.resolve()
    found = [(len(point), kind) for _, point, kind, *_ in mounts if resolved.is_relative_to(point)]
    return max(found)[1] if found else None


def _file_error(error: OSError) -> OutputError:
    return OutputError(
        "unfinished sums cannot be kept in a file",
        received=os.strerror(error.errno) if error.errno else str(error),
        expected=f"space for temporary files in {tempfile.gettempdir()}",
        fix="Free space, set TMPDIR to another folder, or allow more with --max-memory.",
    )
