"""The training loop: epochs, validation, checkpoints, resumption."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gcis_runtime.errors import CheckpointError, DataError, ProcessError
from gcis_train.data.volumes import CaseVolume
from gcis_train.options.training import TrainOptions
from gcis_train.routing.health import RouterHealth
from gcis_train.training import state
from gcis_train.training.distributed import Processes, current
from gcis_train.training.feed import Feed
from gcis_train.training.objectives import Batch, Objective
from gcis_train.training.progress import Progress
from gcis_train.training.run_folder import RunFolder, Scalars
from gcis_train.training.steps import Stepper
from gcis_train.training.validation import validate_share
from gcis_train.weights import checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: finished or interrupted, where, with what, and whether this process is to tell."""

    finished: bool
    epoch: int
    best_dice: float | None
    latest: Path
    first: bool = True


@dataclasses.dataclass(kw_only=True)
class _Counters:
    """Where the run is: all that a checkpoint keeps beside weights and optimiser.

    Attributes:
        epoch: Epochs done.
        step: Steps done in the present epoch.
        best: Best mean validation Dice.
        loss: Sum of the present epoch's losses, over `losses` steps.
        steps: Steps of an epoch.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    loss: float = 0.0
    losses: int = 0
    steps: int = 0


class Trainer:
    """Runs an objective over a feed and keeps a run folder.

    Args:
        objective: Network and loss.
        feed: Batches.
        prompts: Channels of the evaluator.
        validation: Pre-processed validation cases, read when first asked for.
        options: The run's options.
        run_dir: Folder of the run.
        describe: Returns the checkpoint configuration of the present weights.
        progress: Where to show progress.
        health: Returns the state of the routers, of a network that has them.
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
        health: Callable[[], RouterHealth] | None = None,
    ) -> None:
        self._objective, self._feed, self._prompts = objective, feed, tuple(prompts)
        self._validation, self._options, self._folder = validation, options, RunFolder(run_dir)
        self._describe, self._progress, self._health = describe, progress, health
        self._processes: Processes = current()
        self._stepper = Stepper(objective, options, self._processes, steps=feed.steps)
        self._at = _Counters(steps=feed.steps)
        self._collapsed: tuple[str, ...] = ()
        self._asked = False  # this process got a signal
        self._stop = False  # all processes agreed to stop

    def resume(self) -> None:
        """Continue from the run folder's latest checkpoint.

        Raises:
            CheckpointError: There is none, or it is of another network.
        """
        found = checkpoint.load(self._folder.path, prefer="latest")
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
        known = {f.name for f in dataclasses.fields(_Counters)}
        counters = state.unpack(data, self._stepper.optimizer, self._stepper.scaler)
        self._at = _Counters(**{k: v for k, v in counters.items() if k in known})
        self._folder.open()
        if self._at.step and self._at.steps not in (0, self._feed.steps):
            self._progress.say(
                f"epoch {self._at.epoch + 1} begins again: it has {self._feed.steps} steps now, "
                f"not {self._at.steps} (other cases, batch size or number of processes)"
            )
            self._at.step, self._at.loss, self._at.losses = 0, 0.0, 0
        self._at.steps = self._feed.steps
        if self._processes.first:
            self._folder.rewind_metrics(self._at.epoch)

    def run(self) -> Outcome:
        """Train to the last epoch, or until interrupted (SIGINT or SIGTERM saves and stops).

        Raises:
            DataError: The loss of a step is not finite, or a case cannot be read; checkpoints are intact.
            CheckpointError: A checkpoint cannot be written; the older ones are intact.
            ProcessError: Another process is gone; checkpoints are intact.
        """
        self._processes.share(list(self._objective.net.state_dict().values()))
        folder = self._folder.path if self._processes.first else None
        scalars = Scalars(folder, first_step=self._global_step + 1)
        with contextlib.closing(scalars), self._interruptible():
            while self._at.epoch < self._options.max_epochs and not self._stop:
                self._run_epoch(scalars)
        return Outcome(
            finished=self._at.epoch >= self._options.max_epochs,
            epoch=self._at.epoch,
            best_dice=self._at.best,
            latest=self._folder.latest,
            first=self._processes.first,
        )

    @property
    def _global_step(self) -> int:
        return self._at.epoch * self._feed.steps + self._at.step

    def _run_epoch(self, scalars: Scalars) -> None:
        started = time.monotonic()
        self._train_epoch(scalars)
        if self._at.step < self._feed.steps:
            self._save("latest")
            return
        last = self._at.epoch + 1 == self._options.max_epochs
        record: dict[str, Any] = {"epoch": self._at.epoch + 1}
        record["loss"] = self._at.loss / self._at.losses if self._at.losses else None
        if (self._at.epoch + 1) % self._options.validate_every == 0 or last:
            scores = self._validate(scalars)
            if scores is None:  # interrupted; resumed, it validates again
                self._agree_to_stop()
                return
            record |= scores
        health = self._watch_routers(scalars)
        record |= {} if health is None else {"routing": health.as_dict()}
        self._at.epoch, self._at.step, self._at.loss, self._at.losses = self._at.epoch + 1, 0, 0.0, 0
        record["seconds"] = round(time.monotonic() - started, 1)
        if self._processes.first:
            self._folder.add_metrics(record)
        self._save("latest")
        if self._options.save_every and self._at.epoch % self._options.save_every == 0:
            self._save(f"epoch-{self._at.epoch}")
        self._progress.epoch(record)
        if health is not None:
            self._report_routers(health)
        self._agree_to_stop()

    def _train_epoch(self, scalars: Scalars) -> None:
        """Train the rest of the epoch, or until all agree to stop."""
        saved = time.monotonic()
        with contextlib.closing(self._feed.epoch(self._at.epoch, start=self._at.step)) as batches:
            while self._next_step(batches, scalars):
                if self._stop:
                    return
                if time.monotonic() - saved > 60 * self._options.save_minutes:
                    self._save("latest")
                    saved = time.monotonic()

    def _next_step(self, batches: Iterator[Batch], scalars: Scalars) -> bool:
        """Train one step; false at the epoch's end. What was trained is saved if the next step cannot be."""
        try:
            batch = next(batches, None)
        except DataError:
            self._save("latest")  # a bad case, not bad weights
            raise
        if batch is None:
            return False
        try:
            loss, stopping = self._stepper.step(batch, self._global_step, stop=self._asked)
        except ProcessError:
            self._save("latest")  # the sums come before the update: the weights are those of the last step
            raise
        self._at.step += 1
        if loss is not None:
            self._at.loss, self._at.losses = self._at.loss + loss, self._at.losses + 1
            scalars.add("train/loss", loss, self._global_step)
            rate = self._stepper.optimizer.param_groups[0]["lr"]
            scalars.add("train/learning_rate", rate, self._global_step)
        steps = self._feed.steps * self._options.max_epochs
        self._progress.step(epoch=self._at.epoch, step=self._global_step, loss=loss, steps=steps)
        # Alone, a signal counts at once; several processes agree in the next step.
        self._stop = stopping or (self._asked and self._processes.world == 1)
        return True

    def _agree_to_stop(self) -> bool:
        flag = torch.tensor(float(self._asked), device=self._stepper.device)
        self._stop = bool(self._processes.add(flag) > 0)
        return self._stop

    def _validate(self, scalars: Scalars) -> dict[str, Any] | None:
        """Score this process's share of the cases; None if interrupted before the end."""
        volumes = self._validation()
        if not volumes:
            return {}
        self._save("latest")  # a validation may take long
        scores = validate_share(
            self._objective.evaluator(),
            self._prompts,
            volumes,
            self._options,
            processes=self._processes,
            stopped=lambda: self._asked and self._processes.world == 1,
        )
        if not scores:
            return scores
        by_prompt = {p: float(np.mean(s)) for p, s in scores.items()}
        mean = float(np.mean(list(by_prompt.values())))
        for prompt, score in by_prompt.items():
            scalars.add(f"validation/{prompt}", score, self._global_step)
        scalars.add("validation/mean_dice", mean, self._global_step)
        if self._at.best is None or mean > self._at.best:
            self._at.best = mean
            self._save("best")
        return {"dice": mean, "dice_by_prompt": by_prompt}

    def _watch_routers(self, scalars: Scalars) -> RouterHealth | None:
        if self._health is None:
            return None
        health = self._health()
        for name, value in health.scalars().items():
            scalars.add(name, value, self._global_step)
        return health

    def _report_routers(self, health: RouterHealth) -> None:
        """Say how prompts are routed; warn when another position than before has collapsed."""
        self._progress.say(health.line())
        if set(health.collapsed) - set(self._collapsed):
            self._progress.say(health.warning())
        self._collapsed = health.collapsed

    def _save(self, role: str) -> None:
        if not self._processes.first:
            return
        whole = self._at.step == self._feed.steps
        epoch = self._at.epoch + whole
        notes = {"epoch": epoch, "step": self._global_step, "validation_dice": self._at.best}
        data = state.pack(self._stepper.optimizer, self._stepper.scaler, dataclasses.asdict(self._at))
        weights: dict[str, Tensor] = self._objective.net.state_dict()
        self._folder.save(role, self._global_step, self._describe(notes), weights, data)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM into a clean stop after the step; a second one ends at once."""

        def handle(number: int, _frame: FrameType | None) -> None:
            self._asked = True
            signal.signal(number, signal.default_int_handler)

        previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, old in previous.items():
                signal.signal(number, old)
