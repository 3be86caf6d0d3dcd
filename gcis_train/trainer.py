"""The training loop: steps, schedule, validation, checkpoints, resumption."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from gcis_runtime.errors import CheckpointError, DataError
from gcis_train import checkpoint, state
from gcis_train.feed import Feed
from gcis_train.losses import value
from gcis_train.objectives import Batch, Objective
from gcis_train.options import TrainOptions
from gcis_train.progress import Progress
from gcis_train.validation import validate
from gcis_train.volumes import CaseVolume

OPTIONS_FILE = "options.json"
METRICS_FILE = "metrics.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: finished or interrupted, where, and with what."""

    finished: bool
    epoch: int
    best_dice: float | None
    latest: Path


class Trainer:
    """Runs an objective over a feed and keeps a run folder.

    Args:
        objective: Network and loss.
        feed: Batches.
        prompts: Channels of the evaluator.
        validation: Pre-processed validation cases.
        options: The run's options.
        run_dir: Folder of the run.
        describe: Returns the checkpoint configuration of the present weights.
        progress: Where to show progress.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        feed: Feed,
        prompts: Sequence[str],
        validation: Callable[[], Sequence[CaseVolume]],
        options: TrainOptions,
        run_dir: Path,
        describe: Callable[[dict[str, Any]], checkpoint.CheckpointConfig],
        progress: Progress,
    ) -> None:
        self._objective, self._feed, self._prompts = objective, feed, tuple(prompts)
        self._validation, self._options, self._run_dir = validation, options, run_dir
        self._describe, self._progress = describe, progress
        self._device = next(objective.net.parameters()).device
        trained = [p for p in objective.net.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            trained, lr=options.learning_rate, weight_decay=options.weight_decay
        )
        fp16 = options.amp == "fp16"
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=fp16)
        self._epoch, self._step = 0, 0
        self._best: float | None = None
        self._pointer: dict[str, str] = {}
        self._stop = False

    def resume(self) -> None:
        """Continue from the run folder's latest checkpoint.

        Raises:
            CheckpointError: There is none, or it is of another network.
        """
        found = checkpoint.load(self._run_dir, prefer="latest")
        if found.config.kind == "static" and found.prompts != self._prompts:
            raise CheckpointError(
                f"{found.folder} was trained on other prompts",
                received=", ".join(self._prompts),
                expected=", ".join(found.prompts),
                fix="Use the datalist that the run began with.",
            )
        found.load_into(self._objective.net)
        try:
            data = (found.folder / state.STATE_FILE).read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"{found.folder} has no training state to resume from", received=error.strerror
            ) from error
        counters = state.unpack(data, self._optimizer, self._scaler)
        self._epoch, self._step, self._best = counters["epoch"], counters["step"], counters["best"]
        pointer = (self._run_dir / checkpoint.POINTER_FILE).read_bytes()
        self._pointer = msgspec.json.decode(pointer, type=dict[str, str])

    def run(self, *, save_minutes: float = 5.0) -> Outcome:
        """Train to the last epoch, or until interrupted (SIGINT or SIGTERM saves and stops).

        Raises:
            DataError: The loss of a step is not finite; the last checkpoint is intact.
        """
        writer = SummaryWriter(self._run_dir / "tensorboard", purge_step=self._global_step)
        with contextlib.closing(writer), self._interruptible():
            while self._epoch < self._options.max_epochs and not self._stop:
                self._run_epoch(writer, save_minutes)
        if self._stop:
            self._save("latest")
        return Outcome(
            finished=self._epoch >= self._options.max_epochs,
            epoch=self._epoch,
            best_dice=self._best,
            latest=self._run_dir / self._pointer.get("latest", ""),
        )

    @property
    def _global_step(self) -> int:
        return self._epoch * self._feed.steps + self._step

    def _run_epoch(self, writer: SummaryWriter, save_minutes: float) -> None:
        losses: list[float] = []
        saved = started = time.monotonic()
        for batch in self._feed.epoch(self._epoch, start=self._step):
            loss = self._train_step(batch)
            self._step += 1
            if loss is not None:
                losses.append(loss)
                writer.add_scalar("train/loss", loss, self._global_step)
                rate = self._optimizer.param_groups[0]["lr"]
                writer.add_scalar("train/learning_rate", rate, self._global_step)
            self._progress.step(
                epoch=self._epoch,
                step=self._global_step,
                loss=loss,
                steps=self._feed.steps * self._options.max_epochs,
            )
            if self._stop:
                return
            if time.monotonic() - saved > 60 * save_minutes:
                self._save("latest")
                saved = time.monotonic()
        self._epoch, self._step = self._epoch + 1, 0
        record: dict[str, Any] = {"epoch": self._epoch, "seconds": round(time.monotonic() - started, 1)}
        record["loss"] = float(np.mean(losses)) if losses else None
        last = self._epoch == self._options.max_epochs
        if self._epoch % self._options.validate_every == 0 or last:
            record |= self._validate(writer)
        self._save("latest")
        with (self._run_dir / METRICS_FILE).open("a") as handle:
            handle.write(json.dumps(record) + "\n")
        self._progress.epoch(record)

    def _train_step(self, batch: Batch) -> float | None:
        self._objective.net.train()
        rate = self._set_rate()
        done = self._global_step / (self._feed.steps * self._options.max_epochs)
        with torch.autocast(
            self._device.type, dtype=_dtype(self._options.amp), enabled=self._options.amp != "none"
        ):
            terms = self._objective.loss(_to(batch, self._device), done=done)
        if not float(terms[0].count) or rate <= 0:
            return None
        loss = value(terms)
        number = float(loss.detach())
        if not math.isfinite(number):
            raise DataError(
                f"the loss is {number} at step {self._global_step}",
                received=f"window of {', '.join(batch.names)}",
                fix="Check that case, lower --learning-rate, or use --amp bf16; "
                "the last checkpoint is intact.",
            )
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self._options.clip_gradient:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._objective.net.parameters(), self._options.clip_gradient)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return number

    def _set_rate(self) -> float:
        rate = learning_rate(self._options, self._global_step, steps=self._feed.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _validate(self, writer: SummaryWriter) -> dict[str, Any]:
        volumes = self._validation()
        if not volumes:
            return {}
        scores = validate(self._objective.evaluator(), self._prompts, volumes, self._options)
        by_prompt = {p: float(np.mean(s)) for p, s in scores.items()}
        mean = float(np.mean(list(by_prompt.values())))
        for prompt, score in by_prompt.items():
            writer.add_scalar(f"validation/{prompt}", score, self._global_step)
        writer.add_scalar("validation/mean_dice", mean, self._global_step)
        if self._best is None or mean > self._best:
            self._best = mean
            self._save("best")
        return {"dice": mean, "dice_by_prompt": by_prompt}

    def _save(self, role: str) -> None:
        """Write a checkpoint, point to it, and remove those that nothing points to."""
        notes = {"epoch": self._epoch, "step": self._global_step, "validation_dice": self._best}
        counters = {"epoch": self._epoch, "step": self._step, "best": self._best}
        name = f"checkpoints/{role}-{self._global_step:08d}"
        data = state.pack(self._optimizer, self._scaler, counters)
        weights: dict[str, Tensor] = self._objective.net.state_dict()
        checkpoint.save(self._run_dir / name, self._describe(notes), weights, {state.STATE_FILE: data})
        self._pointer = {**self._pointer, role: name}
        temporary = self._run_dir / f".{checkpoint.POINTER_FILE}.tmp"
        temporary.write_bytes(msgspec.json.encode(self._pointer))
        temporary.replace(self._run_dir / checkpoint.POINTER_FILE)
        checkpoint.prune(self._run_dir / "checkpoints", keep=set(self._pointer.values()))

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM into a clean stop after the step; a second one ends at once."""

        def handle(number: int, _frame: FrameType | None) -> None:
            self._stop = True
            signal.signal(number, signal.default_int_handler)

        previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, old in previous.items():
                signal.signal(number, old)


def learning_rate(options: TrainOptions, step: int, *, steps: int) -> float:
    """Return the rate of a global step: linear warm-up, then half a cosine to zero."""
    warm = options.warmup_epochs * steps
    total = options.max_epochs * steps
    if step < warm:
        return options.learning_rate * (step + 1) / warm
    done = (step - warm) / max(total - warm, 1)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def write_options(run_dir: Path, options: TrainOptions) -> None:
    """Keep the resolved options in the run folder.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / OPTIONS_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(options), indent=2))
    except OSError as error:
        raise CheckpointError(f"{run_dir} cannot be written", received=error.strerror) from error


def _dtype(amp: str) -> torch.dtype:
    return torch.float16 if amp == "fp16" else torch.bfloat16


def _to(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    return dataclasses.replace(
        batch,
        images=batch.images.to(device, non_blocking=True),
        masks=tuple(m.to(device, non_blocking=True) for m in batch.masks),
    )
