"""Run the training loop: epochs, validation, checkpoints and resumption."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from gcis_runtime.errors import CheckpointError, DataError, ProcessError
from gcis_train.data.volumes import CaseVolume
from gcis_train.options.training import TrainOptions
from gcis_train.routing.health import RouterHealth
from gcis_train.training.distributed import Processes, current
from gcis_train.training.loop import state
from gcis_train.training.loop.budget import Budget
from gcis_train.training.loop.counters import Counters
from gcis_train.training.loop.feed import Feed
from gcis_train.training.loop.load import Load
from gcis_train.training.loop.router_log import RouterLog
from gcis_train.training.loop.run_folder import RunFolder, Scalars
from gcis_train.training.loop.steps import Stepper
from gcis_train.training.loop.stop_signal import StopSignal
from gcis_train.training.loop.validation import validate, validate_share
from gcis_train.training.objectives import Batch, Objective
from gcis_train.training.progress import Progress
from gcis_train.weights import checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a run.

    Attributes:
        finished: Whether the last epoch, or the time of `--max-minutes`, was completed; False if the run was
            interrupted.
        epoch: Number of completed epochs.
        best_dice: Best mean validation Dice, or None without validation.
        latest: Folder of the latest checkpoint.
        first: Whether this is the first process, which reports the result.
    """

    finished: bool
    epoch: int
    best_dice: float | None
    latest: Path
    first: bool = True


class Trainer:
    """Training loop of an objective that writes a run folder.

    Args:
        objective: Network and loss.
        feed: Source of batches.
        prompts: Prompts in the channel order of the evaluation network.
        validation: Returns the preprocessed validation cases; called at the first validation.
        options: Training options.
        run_dir: Run folder.
        config: Configuration of the checkpoints; the counters are added to its provenance.
        progress: Progress display.
        health: Returns router statistics of the current weights; None for a network without routers.
        clock: Seconds of a monotonic clock, which `--max-minutes` is measured with.
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
        config: checkpoint.CheckpointConfig,
        progress: Progress,
        health: Callable[[], RouterHealth] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objective, self._feed, self._prompts = objective, feed, tuple(prompts)
        self._validation, self._options, self._folder = validation, options, RunFolder(run_dir)
        self._config, self._progress = config, progress
        self._processes: Processes = current()
        self._stepper = Stepper(objective, options, self._processes, steps=feed.steps)
        reserved = 5 if options.save_every else 4
        self._budget = Budget(options.max_minutes, clock, self._processes, checkpoints=reserved)
        self._load = Load(self._stepper.device, self._processes)
        self._at = Counters(steps=feed.steps)
        self._routers = RouterLog(health, progress)
        self._signal = StopSignal()
        self._stop = False  # all processes have agreed to stop

    def resume(self) -> None:
        """Restore the latest checkpoint of the run folder.

        Raises:
            CheckpointError: There is no checkpoint, or it belongs to another network or other prompts.
        """
        found = checkpoint.load(self._folder.path, prefer="latest")
        if found.config.kind == "static" and found.prompts != self._prompts:
            raise CheckpointError(
                f"{found.folder} was trained on other prompts",
                received=", ".join(self._prompts),
                expected=", ".join(found.prompts),
                fix="Use the datalist that the run was started with.",
            )
        found.load_into(self._objective.net)
        counters = state.unpack(state.read(found.folder), self._stepper.optimizer, self._stepper.scaler)
        self._at = Counters.from_stored(counters)
        self._budget.used = self._at.seconds
        self._folder.open()
        if self._at.step and self._at.steps not in (0, self._feed.steps):
            self._progress.log(
                f"epoch {self._at.epoch + 1} restarts: it now has {self._feed.steps} steps instead of "
                f"{self._at.steps} (different cases, batch size or number of processes)"
            )
            self._at.step, self._at.loss, self._at.losses = 0, 0.0, 0
        self._at.steps = self._feed.steps
        if self._processes.first:
            self._folder.rewind_metrics(self._at.epoch)

    def run(self) -> Outcome:
        """Train to the last epoch, or until interrupted (SIGINT and SIGTERM save a checkpoint and stop).

        Raises:
            DataError: The loss of a step is not finite, or a case cannot be read; checkpoints are intact.
            CheckpointError: A checkpoint cannot be written; earlier ones are intact.
            ProcessError: Another process has ended; checkpoints are intact.
        """
        self._processes.share(list(self._objective.net.state_dict().values()))
        folder = self._folder.path if self._processes.first else None
        scalars = Scalars(folder, first_step=self._global_step + 1)
        end = None if self._budget.limited else self._options.max_epochs
        stream = self._feed.stream(self._at.epoch, start=self._at.step, end=end)
        with contextlib.closing(scalars), contextlib.closing(stream) as batches, self._signal:
            if self._budget.limited and not self._finished:
                self._prepare()
            while not self._finished and not self._stop:
                self._run_epoch(batches, scalars)
        return Outcome(
            finished=self._finished,
            epoch=self._at.epoch,
            best_dice=self._at.best,
            latest=self._folder.latest,
            first=self._processes.first,
        )

    @property
    def _global_step(self) -> int:
        return self._at.epoch * self._feed.steps + self._at.step

    @property
    def _finished(self) -> bool:
        if self._budget.limited:
            return self._at.completed_minutes >= self._options.max_minutes
        return self._at.epoch >= self._options.max_epochs

    def _prepare(self) -> None:
        """Load all cases, then start the clock and measure a checkpoint and the validation of one case.

        Time is not spent on reading files, and enough of it is reserved for the last validation.
        """
        self._feed.load()
        volumes = self._validation()
        self._budget.start()
        self._save("latest")
        self._budget.reserve(checkpoint=self._budget.tick())
        if volumes:
            own = min(self._processes.rank, len(volumes) - 1)
            validate(self._objective.evaluator(), self._prompts, [volumes[own]], self._options)
            rounds = -(-len(volumes) // self._processes.world)
            self._budget.reserve(validation=rounds * self._budget.tick())
        self._budget.check(new=self._global_step == 0)
        self._progress.log(f"{self._budget.text} are reserved for the last validation and its checkpoints")

    def _run_epoch(self, batches: Iterator[Batch], scalars: Scalars) -> None:
        started = time.monotonic()
        self._train_epoch(batches, scalars)
        last = self._budget.over if self._budget.limited else self._at.epoch + 1 == self._options.max_epochs
        if self._at.step < self._feed.steps and (self._stop or not last):
            self._save("latest")
            return
        record: dict[str, Any] = {"epoch": self._at.epoch + 1}
        record["loss"] = self._at.loss / self._at.losses if self._at.losses else None
        due = (self._at.epoch + 1) % self._options.validate_every == 0
        if (due and self._budget.has_time_to_validate) or last:
            scores = self._validate(scalars)
            if scores is None:  # interrupted; a resumed run validates again
                self._agree_to_stop()
                return
            record |= scores
            last = last or self._budget.over  # this validation was slower than expected, and is the last
        health = self._routers.watch(scalars, self._global_step)
        record |= {} if health is None else {"routing": health.as_dict()}
        self._at.end_epoch()
        if last:
            self._at.completed_minutes = self._options.max_minutes
        record["seconds"] = round(time.monotonic() - started, 1)
        record |= self._load.record()
        if self._processes.first:
            self._folder.add_metrics(record)
        self._save("latest")
        if self._options.save_every and self._at.epoch % self._options.save_every == 0:
            self._save(f"epoch-{self._at.epoch}")
        self._budget.tick()
        self._progress.epoch(record)
        if health is not None:
            self._routers.report(health)
        self._agree_to_stop()

    def _train_epoch(self, batches: Iterator[Batch], scalars: Scalars) -> None:
        """Train the remaining steps of the epoch, until the time is over or all processes agree to stop."""
        saved = time.monotonic()
        self._load.begin()
        while self._at.step < self._feed.steps and not self._stop and not self._budget.over:
            self._next_step(batches, scalars)
            if time.monotonic() - saved > 60 * self._options.save_minutes and not self._stop:
                self._save("latest")
                saved = time.monotonic()

    def _next_step(self, batches: Iterator[Batch], scalars: Scalars) -> None:
        """Train one step. If it fails, a checkpoint is saved."""
        try:
            batch = next(batches)
        except DataError:
            self._save("latest")  # the case is invalid, but the weights are not
            raise
        done = self._budget.done if self._budget.limited else None
        try:
            loss, stopping = self._stepper.step(
                batch, self._global_step, done=done, stop=self._signal.received
            )
            self._budget.step()
        except ProcessError:
            self._save("latest")  # raised before the update: the weights are those of the last step
            raise
        self._at.step += 1
        self._load.add(batch)
        if loss is not None:
            self._at.loss, self._at.losses = self._at.loss + loss, self._at.losses + 1
            scalars.add("train/loss", loss, self._global_step)
            rate = self._stepper.optimizer.param_groups[0]["lr"]
            scalars.add("train/learning_rate", rate, self._global_step)
        steps = self._feed.steps * self._options.max_epochs
        if done is not None:  # expected from the time so far
            steps = round(self._global_step / max(self._budget.done, 1e-6))
        self._progress.step(epoch=self._at.epoch, step=self._global_step, loss=loss, steps=steps)
        # A single process stops immediately; several processes agree in the next step.
        self._stop = stopping or (self._signal.received and self._processes.world == 1)

    def _agree_to_stop(self) -> None:
        flag = torch.tensor(float(self._signal.received), device=self._stepper.device)
        self._stop = bool(self._processes.add(flag) > 0)

    def _validate(self, scalars: Scalars) -> dict[str, Any] | None:
        """Validate, and save the best checkpoint; return None if interrupted before the end."""
        volumes = self._validation()
        if not volumes:
            return {}
        self._budget.tick()
        self._save("latest")  # validation may take long
        scores = validate_share(
            self._objective.evaluator(),
            self._prompts,
            volumes,
            self._options,
            processes=self._processes,
            stopped=lambda: self._signal.received and self._processes.world == 1,
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
        self._budget.reserve(validation=self._budget.tick())
        return {"dice": mean, "dice_by_prompt": by_prompt}

    def _save(self, role: str) -> None:
        if not self._processes.first:
            return
        self._at.seconds = self._budget.used
        epoch = self._at.epoch + (self._at.step == self._feed.steps)
        notes = {"epoch": epoch, "step": self._global_step, "validation_dice": self._at.best}
        data = state.pack(self._stepper.optimizer, self._stepper.scaler, dataclasses.asdict(self._at))
        weights: dict[str, Tensor] = self._objective.net.state_dict()
        config = msgspec.structs.replace(self._config, provenance={**self._config.provenance, **notes})
        self._folder.save(role, self._global_step, config, weights, data)
