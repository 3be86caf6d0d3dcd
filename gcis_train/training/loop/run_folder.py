"""Write the run folder: options, metrics, TensorBoard scalars and checkpoints, each file atomically."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
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

from gcis_runtime.errors import CheckpointError, DataError, OutputError
from gcis_runtime.system.atomic_files import replacing
from gcis_runtime.system.json_files import decode_json
from gcis_runtime.system.own_files import open_append
from gcis_train.options.stored import from_stored, to_stored
from gcis_train.options.training import TrainOptions
from gcis_train.training.loop import state
from gcis_train.weights import checkpoint

OPTIONS_FILE = "options.json"
METRICS_FILE = "metrics.jsonl"


class RunFolder:
    """Run folder. Of several processes, only the first may call methods that write.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pointer: dict[str, str] = {}

    @property
    def has_checkpoint(self) -> bool:
        """Whether the folder has a checkpoint to resume from."""
        return (self.path / checkpoint.POINTER_FILE).is_file()

    @property
    def latest(self) -> Path:
        """Folder of the latest checkpoint."""
        return self.path / self._pointer.get("latest", "")

    def open(self) -> None:
        """Read the list of existing checkpoints."""
        self._pointer = checkpoint.read_pointer(self.path)

    def write_options(self, options: TrainOptions) -> None:
        """Write the resolved options.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        self.write_json(OPTIONS_FILE, to_stored(options))

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as a JSON file in the folder.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        try:
            with replacing(self.path / name) as temporary:
                temporary.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2))
        except OutputError as error:
            raise _unwritable(self.path, error) from error

    def changed_options(self, options: TrainOptions) -> list[str]:
        """Return the differences to the options in the folder as `name: old -> new`."""
        try:
            stored = decode_json((self.path / OPTIONS_FILE).read_bytes(), dict[str, Any])
            before = from_stored(stored)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, DataError):
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
        """Write a checkpoint, register it under its role, and remove unregistered ones.

        Args:
            role: `latest`, `best`, or another name for a checkpoint that is kept.
            step: Number of completed steps, part of the folder name.
            config: Contents of `config.json`.
            weights: Tensors by parameter name.
            training_state: Packed training state, see `state.pack`.

        Raises:
            CheckpointError: The checkpoint cannot be written; earlier ones are intact.
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
        prune(self.path / "checkpoints", keep=set(pointer.values()))

    def rewind_metrics(self, epoch: int) -> None:
        """Remove the metrics of epochs after `epoch`, and a line that was only partly written."""
        path = self.path / METRICS_FILE
        if not path.is_file():
            return
        kept = [
            line
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
            if _epoch(line) <= epoch
        ]
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))

    def add_metrics(self, record: dict[str, Any]) -> None:
        """Append the metrics of an epoch.

        Raises:
            CheckpointError: The file cannot be written.
        """
        try:
            with os.fdopen(open_append(self.path / METRICS_FILE), "a") as handle:
                handle.write(json.dumps(record) + "\n")
        except OSError as error:
            raise CheckpointError(
                f"{self.path / METRICS_FILE} cannot be written",
                received=error.strerror,
                fix="Free space; earlier checkpoints are intact.",
            ) from error


class Scalars:
    """Writer of TensorBoard scalars.

    It writes synchronously, because `SummaryWriter` writes in a background thread, in which errors such as a
    full disk cannot be caught.

    Args:
        folder: Run folder; None writes nothing (processes other than the first).
        first_step: Next step; TensorBoard hides scalars that an earlier process wrote from this step on.

    Raises:
        CheckpointError: The file cannot be written.
    """

    def __init__(self, folder: Path | None, *, first_step: int) -> None:
        self._records: RecordWriter | None = None
        if folder is None:
            return
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        with _tensorboard_errors():
            (folder / "tensorboard").mkdir(exist_ok=True)
            self._records = RecordWriter(os.fdopen(open_append(folder / "tensorboard" / name), "ab"))
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, name: str, value: float, step: int) -> None:
        """Write a scalar.

        Raises:
            CheckpointError: The file cannot be written.
        """
        if self._records is not None:
            point = Summary.Value(tag=name, simple_value=value)
            self._write(Event(step=step, summary=Summary(value=[point])))

    def close(self) -> None:
        """Close the file; all scalars are already written."""
        if self._records is not None:
            with contextlib.suppress(OSError):  # a failed write has already raised an error
                self._records.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with _tensorboard_errors():
            self._records.write(event.SerializeToString())  # type: ignore[union-attr]
            self._records.flush()  # type: ignore[union-attr]


@contextlib.contextmanager
def _tensorboard_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            "the TensorBoard scalars cannot be written",
            received=error.strerror or str(error),
            fix="Free space; earlier checkpoints are intact.",
        ) from error


def _unwritable(folder: Path, error: OutputError) -> CheckpointError:
    return CheckpointError(
        f"{folder} cannot be written",
        received=error.received,
        fix="Free space or choose another --run-dir; earlier checkpoints are intact.",
    )


def _epoch(line: str) -> float:
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return float("inf")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            result |= _flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = list(value) if isinstance(value, tuple) else value
    return result


def prune(folder: Path, *, keep: set[str]) -> None:
    """Remove the checkpoints of a run that are not listed in `keep`.

    Args:
        folder: The `checkpoints` folder of the run.
        keep: Names to keep, as `checkpoints/<name>`.
    """
    for found in folder.iterdir():
        if f"{folder.name}/{found.name}" not in keep:
            shutil.rmtree(found, ignore_errors=True)
