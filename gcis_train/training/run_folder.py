"""A run's folder: its options, its metrics, and its checkpoints, each replaced as a whole."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor

from gcis_runtime.errors import CheckpointError, OutputError
from gcis_runtime.system.atomic_files import replacing
from gcis_train.options.training import TrainOptions
from gcis_train.training import state
from gcis_train.weights import checkpoint

OPTIONS_FILE = "options.json"
METRICS_FILE = "metrics.jsonl"


class RunFolder:
    """Writes a run's folder. Only the first of several processes may call what writes.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pointer: dict[str, str] = {}

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return (self.path / checkpoint.POINTER_FILE).is_file()

    @property
    def latest(self) -> Path:
        """Folder of the latest checkpoint."""
        return self.path / self._pointer.get("latest", "")

    def open(self) -> None:
        """Read which checkpoints there are."""
        self._pointer = checkpoint.read_pointer(self.path)

    def write_options(self, options: TrainOptions) -> None:
        """Keep the resolved options.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        self.write_json(OPTIONS_FILE, options)

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as a JSON file of the folder.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        try:
            with replacing(self.path / name) as temporary:
                temporary.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2))
        except OutputError as error:
            raise _unwritable(self.path, error) from error

    def changed_options(self, options: TrainOptions) -> list[str]:
        """Return what differs from the options that the run was last begun with, as lines."""
        try:
            before = msgspec.json.decode((self.path / OPTIONS_FILE).read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return []
        now = _flat(msgspec.to_builtins(options))
        old = _flat(before)
        return [
            f"{name}: {old[name]} -> {now[name]}" for name in now if name in old and now[name] != old[name]
        ]

    def save(
        self,
        role: str,
        step: int,
        config: checkpoint.CheckpointConfig,
        weights: dict[str, Tensor],
        training_state: bytes,
    ) -> None:
        """Write a checkpoint, point to it, and remove those that nothing points to.

        Args:
            role: `latest`, `best`, or a name of its own for one to keep.
            step: Steps done, for its name.
            config: Contents of `config.json`.
            weights: State by our names.
            training_state: What it is resumed from.

        Raises:
            CheckpointError: It cannot be written; the older ones are intact.
        """
        name = f"checkpoints/{role}-{step:08d}"
        checkpoint.save(self.path / name, config, weights, {state.STATE_FILE: training_state})
        pointer = {**self._pointer, role: name}
        try:
            with replacing(self.path / checkpoint.POINTER_FILE) as temporary:
                temporary.write_bytes(msgspec.json.encode(pointer))
        except OutputError as error:
            raise _unwritable(self.path, error) from error
        self._pointer = pointer
        checkpoint.prune(self.path / "checkpoints", keep=set(pointer.values()))

    def rewind_metrics(self, epoch: int) -> None:
        """Drop the metrics of epochs after `epoch`, and a line that a kill cut in half."""
        path = self.path / METRICS_FILE
        if not path.is_file():
            return
        kept = [line for line in path.read_text().splitlines() if _epoch(line) <= epoch]
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))

    def add_metrics(self, record: dict[str, Any]) -> None:
        """Append one epoch's metrics."""
        try:
            with (self.path / METRICS_FILE).open("a") as handle:
                handle.write(json.dumps(record) + "\n")
        except OSError as error:
            raise CheckpointError(
                f"{self.path / METRICS_FILE} cannot be written",
                received=error.strerror,
                fix="Free space; what was saved before is intact.",
            ) from error


class Scalars:
    """Curves for TensorBoard.

    Written at once and in this thread: `SummaryWriter` writes in one of its own, which on a full disk ends
    with a traceback that nobody catches.

    Args:
        folder: The run's folder; None writes nothing (a process other than the first).
        first_step: The next step; what an earlier, killed process noted from it on is dropped.

    Raises:
        CheckpointError: The curves cannot be written.
    """

    def __init__(self, folder: Path | None, *, first_step: int) -> None:
        self._records: RecordWriter | None = None
        if folder is None:
            return
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        with _writing_curves():
            (folder / "tensorboard").mkdir(exist_ok=True)
            self._records = RecordWriter((folder / "tensorboard" / name).open("ab"))
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, name: str, value: float, step: int) -> None:
        """Add one point of a curve.

        Raises:
            CheckpointError: It cannot be written.
        """
        if self._records is not None:
            point = Summary.Value(tag=name, simple_value=value)
            self._write(Event(step=step, summary=Summary(value=[point])))

    def close(self) -> None:
        """Close the file; everything is written already."""
        if self._records is not None:
            with contextlib.suppress(OSError):  # a failed write was raised already
                self._records.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with _writing_curves():
            self._records.write(event.SerializeToString())  # type: ignore[union-attr]
            self._records.flush()  # type: ignore[union-attr]


@contextlib.contextmanager
def _writing_curves() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            "the curves for TensorBoard cannot be written",
            received=error.strerror or str(error),
            fix="Free space; what was saved before is intact.",
        ) from error


def _unwritable(folder: Path, error: OutputError) -> CheckpointError:
    return CheckpointError(
        f"{folder} cannot be written",
        received=error.received,
        fix="Free space or choose another --run-dir; what was saved before is intact.",
    )


def _epoch(line: str) -> float:
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            result |= _flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = list(value) if isinstance(value, tuple) else value
    return result
