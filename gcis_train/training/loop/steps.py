"""Compute a training step: forward pass, loss and gradients over all processes, AdamW update."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from gcis_runtime.errors import DataError
from gcis_train.options.training import Precision, TrainOptions
from gcis_train.training.distributed import Processes
from gcis_train.training.losses import Mean
from gcis_train.training.objectives import Batch, Objective

ROUTERS = "routers."
"""Prefix of the parameters that `router_learning_rate` applies to."""


class Stepper:
    """Optimiser of an objective.

    Args:
        objective: Network and loss.
        options: Training options.
        processes: Processes that share every batch.
        steps: Steps per epoch.
    """

    def __init__(
        self, objective: Objective, options: TrainOptions, processes: Processes, *, steps: int
    ) -> None:
        self._objective, self._options, self._processes, self._steps = objective, options, processes, steps
        self.device = next(objective.net.parameters()).device
        self._trained = [p for p in objective.net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            _groups(objective.net, options), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=options.amp == "fp16")

    def step(
        self, batch: Batch, number: int, *, done: float | None = None, stop: bool = False
    ) -> tuple[float | None, bool]:
        """Train one step on the share of a batch that belongs to this process.

        Args:
            batch: Windows; may be empty.
            number: Number of completed steps in all epochs.
            done: Completed share of the training, in [0, 1), for the schedules; None computes it from
                `number`.
            stop: Whether this process received a signal to stop.

        Returns:
            Loss of the complete batch (None if it has no labelled structure; no weight is then changed), and
            whether any process received a signal to stop.

        Raises:
            DataError: The loss or a gradient is not finite; no weight was changed.
            ProcessError: Another process has ended.
        """
        options = self._options
        self._objective.net.train()
        total = self._steps * options.max_epochs
        self._set_rate(number if done is None else done * total)
        done = number / total if done is None else done
        with torch.autocast(self.device.type, dtype=_dtype(options.amp), enabled=options.amp != "none"):
            terms = self._objective.loss(_to(batch, self.device), done=done)
        totals, counts, stopping = self._add_up(terms, stop=stop)
        if counts[0] == 0:
            return None, stopping
        loss = sum(t / max(c, 1e-12) for t, c in zip(totals, counts, strict=True))
        if not math.isfinite(loss):
            if any(t.of_routers and not math.isfinite(float(t.total.detach())) for t in terms):
                raise _routers_not_finite(f"the loss is {loss}", number, "balance loss of the routers")
            mine = all(math.isfinite(float(t.total.detach())) for t in terms)
            raise self._not_finite(f"the loss is {loss}", number, batch, elsewhere=mine)
        self.optimizer.zero_grad(set_to_none=True)
        own = torch.stack([t.total / max(c, 1e-12) for t, c in zip(terms, counts, strict=True)]).sum()
        if own.requires_grad:
            self.scaler.scale(own).backward()  # type: ignore[no-untyped-call]
        self._processes.add_gradients(self._trained)
        self._update(number, batch)
        return loss, stopping

    def _add_up(self, terms: tuple[Mean, ...], *, stop: bool) -> tuple[list[float], list[float], bool]:
        """Return totals and counts of the terms over all processes, and whether any process is to stop."""
        parts = [t.total.detach().double() for t in terms] + [t.count.double() for t in terms]
        summed = self._processes.add(torch.stack([*parts, parts[0].new_tensor(float(stop))])).tolist()
        return summed[: len(terms)], summed[len(terms) : -1], summed[-1] > 0

    def _update(self, number: int, batch: Batch) -> None:
        if self._options.unused_blocks == "decay":
            for parameter in self._trained:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        self.scaler.unscale_(self.optimizer)
        limit = self._options.clip_gradient or math.inf
        # In two steps, since clipping with a norm of NaN would make every gradient NaN.
        total = torch.nn.utils.get_total_norm([p.grad for p in self._trained if p.grad is not None])
        norm = float(total)
        # The scaler skips steps with overflowed half-precision gradients and lowers its scale.
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            if _only_routers_not_finite(self._objective.net):
                raise _routers_not_finite(f"the gradient norm is {norm}", number, "gradient of the routers")
            raise self._not_finite(f"the gradient norm is {norm}", number, batch, elsewhere=False)
        torch.nn.utils.clip_grads_with_norm_(self._trained, limit, total)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _not_finite(self, what: str, number: int, batch: Batch, *, elsewhere: bool) -> DataError:
        windows = "; ".join(
            f"{name} ({', '.join(prompts) or 'no prompt'})"
            for name, prompts in zip(batch.names, batch.prompts, strict=True)
        )
        return DataError(
            f"{what} at step {number}",
            received="a window of another process" if elsewhere else f"window of {windows}",
            expected="a finite number",
            fix="Check the case, lower --learning-rate, or use --amp bf16 or none; "
            "the last checkpoint is intact.",
        )

    def _set_rate(self, number: float) -> None:
        factor = learning_rate(self._options, number, steps=self._steps) / self._options.learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["peak"]


def _only_routers_not_finite(net: nn.Module) -> bool:
    """Return whether all gradients that are not finite belong to routers."""
    return all(
        name.startswith(ROUTERS) or parameter.grad is None or bool(parameter.grad.isfinite().all())
        for name, parameter in net.named_parameters()
    )


def _routers_not_finite(what: str, number: int, received: str) -> DataError:
    return DataError(
        f"{what} at step {number}",
        received=received,
        expected="a finite number",
        fix="Lower --router-learning-rate or --balance; the last checkpoint is intact.",
    )


def learning_rate(options: TrainOptions, step: float, *, steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine to zero, or constant.

    `epoch_cosine` is the schedule of the published program: it changes between epochs, is zero in the first
    epoch and reaches the peak in the last epoch of the warm-up.

    Args:
        options: Training options.
        step: Number of completed steps in all epochs; not whole if the schedule follows the time.
        steps: Steps per epoch.
    """
    peak, warm = options.learning_rate, options.warmup_epochs * steps
    total = options.max_epochs * steps
    if options.schedule == "epoch_cosine":
        epoch, warm_epochs = step // steps, options.warmup_epochs
        if epoch < warm_epochs:
            return peak * epoch / max(warm_epochs - 1, 1)
        step, warm, total = epoch, warm_epochs, options.max_epochs
    elif step < warm:
        return peak * min((step + 1) / warm, 1.0)
    if options.schedule == "constant":
        return peak
    done = (step - warm) / max(total - warm, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _groups(net: nn.Module, options: TrainOptions) -> list[dict[str, object]]:
    """Return the parameter groups; routers with their own learning rate form a second one."""
    trained = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
    if options.router_learning_rate is None:
        return [{"params": [p for _, p in trained], "peak": options.learning_rate}]
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, parameter in trained:
        parts[name.startswith(ROUTERS)].append(parameter)
    peaks = (options.learning_rate, options.router_learning_rate)
    return [{"params": p, "peak": peak} for p, peak in zip(parts, peaks, strict=True) if p]


def _dtype(amp: Precision) -> torch.dtype:
    return torch.float16 if amp == "fp16" else torch.bfloat16


def _to(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    return dataclasses.replace(
        batch,
        images=batch.images.to(device, non_blocking=True),
        masks=tuple(m.to(device, non_blocking=True) for m in batch.masks),
    )
