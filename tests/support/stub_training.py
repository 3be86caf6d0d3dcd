"""Train a stub network in milliseconds per step, for tests that kill, resume and distribute a run.

A process can import this module before it forks: it starts no thread and no autograd engine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcis_train.data.datalist import group_cases, read_datalist
from gcis_train.options.training import AugmentSpec, TrainOptions
from gcis_train.training.distributed import current
from gcis_train.training.loop.feed import Feed
from gcis_train.training.loop.trainer import Trainer
from gcis_train.training.losses import Mean
from gcis_train.training.objectives import Batch, nothing
from gcis_train.weights.checkpoint import CheckpointConfig, prompt_table
from tests.support.training_values import PROMPTS, Silent, options, volume

RUN = options(
    augment=AugmentSpec(flip=(0.5, 0.5, 0.5), intensity_scale=0.5),
    max_epochs=2,
    windows_per_case=2,
    validate_every=1,
    clip_gradient=1.0,
)


class DropoutNet(nn.Module):
    """A network with two logits and dropout, which depends on torch's random state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv3d(1, 2, 3, padding=1)
        self.idle = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))  # the second never gets a gradient
        self.dropout = 0.3

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.conv(image)
        return nn.functional.dropout(logits, self.dropout, training=self.training)


class StubObjective:
    """Mean squared error over (window, prompt) rows."""

    def __init__(self, *, dropout: bool) -> None:
        self.net: nn.Module = DropoutNet()
        if not dropout:
            self.net.dropout = 0.0  # type: ignore[assignment]

    def loss(self, batch: Batch, *, done: float) -> tuple[Mean, ...]:
        rows = sum(len(p) for p in batch.prompts)
        if not rows:
            return (nothing(batch),)
        logits = self.net(batch.images[..., ::8, ::8, ::8])
        total = torch.zeros(())
        for index, (masks, seed) in enumerate(zip(batch.masks, batch.seeds, strict=True)):
            noise = torch.rand(2, generator=torch.Generator().manual_seed(seed))
            for channel, mask in enumerate(masks):
                error = (logits[index, channel] - mask[::8, ::8, ::8]) ** 2
                total = total + noise[channel] * error.mean()
                if batch.names[index] == "ct0":  # a parameter that only some windows reach, as a block
                    total = total + self.net.idle[0](torch.ones(2)).square().sum()  # type: ignore[index]
        return (Mean(total=total, count=torch.tensor(float(rows))),)

    def evaluator(self) -> Any:
        return self.net.eval()


class Recording(Silent):
    """Progress display that writes the loss of every step to a file, for processes that are killed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def step(self, *, epoch: int, step: int, steps: int, loss: float | None) -> None:
        super().step(epoch=epoch, step=step, steps=steps, loss=loss)
        with self.path.open("a") as handle:
            handle.write(json.dumps([step, loss]) + "\n")


def trainer(
    data: Path,
    folder: Path,
    run: TrainOptions = RUN,
    *,
    dropout: bool = True,
    progress: Any = None,
    clock: Callable[[], float] = time.monotonic,
) -> Trainer:
    """Return the trainer of this process on the datalist in `data`."""
    rows = read_datalist(data / "datalist.json")
    cases = group_cases(rows.training, folder=data)
    ball = {p: torch.zeros(12, 12, 12, dtype=torch.bool).numpy() for p in PROMPTS}
    for index, prompt in enumerate(PROMPTS):
        ball[prompt][4 * index : 4 * index + 4] = True
    config = CheckpointConfig(
        kind="routed", network=run.network, prompts=prompt_table(PROMPTS, torch.zeros(2, 4))
    )

    folder.mkdir(parents=True, exist_ok=True)
    made = Trainer(
        objective=StubObjective(dropout=dropout),
        feed=Feed(cases, PROMPTS, run, current()),
        prompts=PROMPTS,
        validation=lambda: [volume(ball), volume(ball)],
        options=run,
        run_dir=folder,
        config=config,
        progress=progress or Recording(folder / "losses.jsonl"),
        clock=clock,
    )
    if (folder / "checkpoint.json").exists():
        made.resume()
    return made


def steps_of(folder: Path) -> list[tuple[int, float]]:
    """Return the recorded (step, loss)."""
    lines = (folder / "losses.jsonl").read_text().splitlines()
    return [(step, loss) for step, loss in map(json.loads, lines)]
