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
from gcis_train.training.loop.feed import Feed
from gcis_train.training.loop.run_folder import RunFolder, Scalars
from gcis_train.training.loop.steps import Stepper
from gcis_train.training.loop.stop_signal import StopSignal
from gcis_train.training.loop.validation import validate_share
from gcis_train.training.objectives import Batch, Objective
from gcis_train.training.progress import Progress
from gcis_train.weights import checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a run.

    Attributes:
        finished: Whether the last epoch was completed; False if the run was interrupted.
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


@dataclasses.dataclass(kw_only=True)
class _Counters:
    """Counters of a run, stored in checkpoints.

    Attributes:
        epoch: Completed epochs.
        step: Completed steps in the current epoch.
        best: Best mean validation Dice.
        loss: Sum of the losses of the current epoch.
        losses: Number of losses in that sum.
        steps: Steps per epoch.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    loss: float = 0.0
    losses: int = 0
    steps: int = 0


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
    ) -> None:
        self._objective, self._feed, self._prompts = objective, feed, tuple(prompts)
        self._validation, self._options, self._folder = validation, options, RunFolder(run_dir)
        self._config, self._progress, self._health = config, progress, health
        self._processes: Processes = current()
        self._stepper = Stepper(objective, options, self._processes, steps=feed.steps)
        self._at = _Counters(steps=feed.steps)
        self._collapsed: tuple[str, ...] = ()
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
        try:
            data = (found.folder / state.STATE_FILE).read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"{found.folder} has no training state to resume from",
                received=error.strerror,
                expected=state.STATE_FILE,
                fix="Choose another --run-dir, or pass the checkpoint as --pretrained.",
            ) from error
        known = {f.name for f in dataclasses.fields(_Counters)}
        counters = state.unpack(data, self._stepper.optimizer, self._stepper.scaler)
        self._at = _Counters(**{k: v for k, v in counters.items() if k in known})
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
        with contextlib.closing(scalars), self._signal:
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
            if scores is None:  # interrupted; a resumed run validates again
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
        """Train the remaining steps of the epoch, or until all processes agree to stop."""
        saved = time.monotonic()
        with contextlib.closing(self._feed.epoch(self._at.epoch, start=self._at.step)) as batches:
            while self._next_step(batches, scalars):
                if self._stop:
                    return
                if time.monotonic() - saved > 60 * self._options.save_minutes:
                    self._save("latest")
                    saved = time.monotonic()

    def _next_step(self, batches: Iterator[Batch], scalars: Scalars) -> bool:
        """Train one step; return False at the end of the epoch. If the step fails, a checkpoint is saved."""
        try:
            batch = next(batches, None)
        except DataError:
            self._save("latest")  # the case is invalid, but the weights are not
            raise
        if batch is None:
            return False
        try:
            loss, stopping = self._stepper.step(batch, self._global_step, stop=self._signal.received)
        except ProcessError:
            self._save("latest")  # raised before the update: the weights are those of the last step
            raise
        self._at.step += 1
        if loss is not None:
            self._at.loss, self._at.losses = self._at.loss + loss, self._at.losses + 1
            scalars.add("train/loss", loss, self._global_step)
            rate = self._stepper.optimizer.param_groups[0]["lr"]
            scalars.add("train/learning_rate", rate, self._global_step)
        steps = self._feed.steps * self._options.max_epochs
        self._progress.step(epoch=self._at.epoch, step=self._global_step, loss=loss, steps=steps)
        # A single process stops immediately; several processes agree in the next step.
        self._stop = stopping or (self._signal.received and self._processes.world == 1)
        return True

    def _agree_to_stop(self) -> bool:
        flag = torch.tensor(float(self._signal.received), device=self._stepper.device)
        self._stop = bool(self._processes.add(flag) > 0)
        return self._stop

    def _validate(self, scalars: Scalars) -> dict[str, Any] | None:
        """Validate, and save the best checkpoint; return None if interrupted before the end."""
        volumes = self._validation()
        if not volumes:
            return {}
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
        return {"dice": mean, "dice_by_prompt": by_prompt}

    def _watch_routers(self, scalars: Scalars) -> RouterHealth | None:
        if self._health is None:
            return None
        health = self._health()
        for name, value in health.scalars().items():
            scalars.add(name, value, self._global_step)
        return health

    def _report_routers(self, health: RouterHealth) -> None:
        """Log the router statistics, and a warning if another position has collapsed."""
        self._progress.log(health.line())
        if set(health.collapsed) - set(self._collapsed):
            self._progress.log(health.warning())
        self._collapsed = health.collapsed

    def _save(self, role: str) -> None:
        if not self._processes.first:
            return
        whole = self._at.step == self._feed.steps
        epoch = self._at.epoch + whole
        notes = {"epoch": epoch, "step": self._global_step, "validation_dice": self._at.best}
        data = state.pack(self._stepper.optimizer, self._stepper.scaler, dataclasses.asdict(self._at))
        weights: dict[str, Tensor] = self._objective.net.state_dict()
        config = msgspec.structs.replace(self._config, provenance={**self._config.provenance, **notes})
        self._folder.save(role, self._global_step, config, weights, data)
