"""Test the training loop with a stub: schedule, resumption, validation, checkpoints, non-finite losses."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gcis_runtime.errors import CheckpointError, DataError
from gcis_train.data.datalist import group_cases, read_datalist
from gcis_train.data.volumes import CaseVolume
from gcis_train.evaluation.curves import read_curves
from gcis_train.metrics import dice
from gcis_train.options.training import AugmentSpec, TrainOptions
from gcis_train.training.loop.feed import Feed
from gcis_train.training.loop.steps import learning_rate
from gcis_train.training.loop.trainer import Outcome, Trainer
from gcis_train.training.loop.validation import validate
from gcis_train.training.losses import Mean
from gcis_train.training.objectives import Batch, nothing
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import CheckpointConfig, prompt_table
from tests.support.training_values import PROMPTS, Silent, equal_states, options, volume, write_cases


class StubNet(nn.Module):
    """Two logits from intensities: structure 0 at high X, structure 1 at low X."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv3d(1, 2, 3, padding=1)
        self.unused = nn.Linear(2, 2)  # gets no gradient, as an unsampled block

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.conv(image)
        return logits


class StubObjective:
    """Squared error with noise from the seed of the window."""

    def __init__(self) -> None:
        self.net: nn.Module = StubNet()
        self.nan_at: str | None = None

    def loss(self, batch: Batch, *, done: float) -> tuple[Mean, ...]:
        small = batch.images[..., ::4, ::4, ::4]
        target = batch.masks[0][None, ..., ::4, ::4, ::4]
        noise = torch.rand(2, generator=torch.Generator().manual_seed(batch.seeds[0])).view(1, 2, 1, 1, 1)
        loss = ((self.net(small) - target) ** 2 * noise).mean()
        total = loss * float("nan") if self.nan_at in batch.names else loss
        return (Mean(total=total, count=torch.ones(())),)

    def evaluator(self) -> Any:
        return self.net.eval()


class Interrupting(Silent):
    """Sends this process a signal after a number of steps."""

    def __init__(self, after: int, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.after, self.number = after, number

    def step(self, *, epoch: int, step: int, steps: int, loss: float | None) -> None:
        super().step(epoch=epoch, step=step, steps=steps, loss=loss)
        if len(self.losses) == self.after:
            os.kill(os.getpid(), self.number)


AUGMENT = AugmentSpec(flip=(0.5, 0.5, 0.5), intensity_scale=0.5)
RUN = options(augment=AUGMENT, max_epochs=2, validate_every=1, clip_gradient=1.0)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Trainer]:
    data = tmp_path / "data"
    data.mkdir()
    rows = read_datalist(write_cases(data, 3))
    cases = group_cases(rows.training, folder=data)

    table = prompt_table(PROMPTS, torch.zeros(2, 4))
    config = CheckpointConfig(kind="routed", network=RUN.network, prompts=table)

    def build(
        name: str,
        *,
        progress: Silent | None = None,
        run: TrainOptions = RUN,
        objective: StubObjective | None = None,
        validation: list[CaseVolume] | None = None,
    ) -> Trainer:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Trainer(
            objective=objective or StubObjective(),
            feed=Feed(cases, PROMPTS, run),
            prompts=PROMPTS,
            validation=lambda: validation or [],
            options=run,
            run_dir=folder,
            config=config,
            progress=progress or Silent(),  # type: ignore[arg-type]
        )

    return build


def _state(trainer: Trainer) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in trainer._objective.net.state_dict().items()}


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_an_interrupted_run_ends_as_the_uninterrupted_one(make: Callable[..., Trainer], after: int) -> None:
    whole = make("whole")
    assert whole.run().finished
    first = make("parts", progress=Interrupting(after))
    previous = signal.getsignal(signal.SIGTERM)
    outcome = first.run()
    assert not outcome.finished and outcome.epoch == after // 3
    assert signal.getsignal(signal.SIGTERM) is previous
    second = make("parts")
    second.resume()
    progress = second._progress
    assert second.run().finished
    assert len(progress.losses) == 6 - after  # type: ignore[attr-defined]
    assert equal_states(_state(second), _state(whole))
    assert not equal_states(_state(first), _state(whole))
    assert _curves(second) == _curves(whole)


def _curves(trainer: Trainer) -> dict[str, list[tuple[int, float]]]:
    """Return the scalars that TensorBoard displays; those of a resumed run follow the earlier ones."""
    curves, _ = read_curves([trainer._folder.path])
    return {tag: list(zip(c.steps.tolist(), c.values.tolist(), strict=True)) for tag, c in curves.items()}


def test_the_weights_do_not_depend_on_the_number_of_workers(make: Callable[..., Trainer]) -> None:
    run = dataclasses_replace(RUN, workers=1)
    alone = make("one", run=run)
    alone.run()
    for workers in (2, 4):
        made = make(f"workers{workers}", run=dataclasses_replace(run, workers=workers))
        made.run()
        assert equal_states(_state(made), _state(alone))
    make("parts", run=dataclasses_replace(run, workers=4), progress=Interrupting(3)).run()
    resumed = make("parts", run=dataclasses_replace(run, workers=2))
    resumed.resume()
    assert resumed.run().finished
    assert equal_states(_state(resumed), _state(alone))


def test_a_second_signal_ends_at_once(make: Callable[..., Trainer]) -> None:
    class Twice(Interrupting):
        def step(self, *, epoch: int, step: int, steps: int, loss: float | None) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        make("twice", progress=Twice(1)).run()


def test_resuming_a_finished_run_changes_nothing(make: Callable[..., Trainer]) -> None:
    trainer = make("run")
    trainer.run()
    curves = _curves(trainer)
    again = make("run")
    again.resume()
    outcome = again.run()
    assert outcome.finished and outcome.epoch == 2
    assert equal_states(_state(again), _state(trainer))
    assert _curves(again) == curves and len(curves["train/loss"]) == 6


def test_the_run_folder(make: Callable[..., Trainer], tmp_path: Path) -> None:
    ball = {p: torch.zeros(20, 20, 20, dtype=torch.bool).numpy() for p in PROMPTS}
    for index, prompt in enumerate(PROMPTS):
        ball[prompt][5 * index : 5 * index + 5] = True
    trainer = make("run", validation=[volume(ball)])
    outcome = trainer.run()
    folder = tmp_path / "run"
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in records] == [1, 2]
    assert all(set(r["dice_by_prompt"]) == set(PROMPTS) for r in records)
    assert outcome.best_dice == max(r["dice"] for r in records)
    pointer = json.loads((folder / "checkpoint.json").read_text())
    assert set(pointer) == {"best", "latest"}
    kept = {f"checkpoints/{p.name}" for p in (folder / "checkpoints").iterdir()}
    assert kept == set(pointer.values())
    latest = checkpoint.load(folder, prefer="latest")
    assert latest.config.provenance == {"epoch": 2, "step": 6, "validation_dice": outcome.best_dice}
    assert outcome.latest == latest.folder
    assert equal_states(latest.weights, _state(trainer))


def test_the_best_checkpoint_is_the_best_of_all_epochs(
    make: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.6, 0.4])
    monkeypatch.setattr(
        "gcis_train.training.loop.validation.validate", lambda *_: {"left ball": [next(scores)]}
    )
    case = volume({p: torch.zeros(8, 8, 8, dtype=torch.bool).numpy() for p in PROMPTS})
    outcome = make("run", run=dataclasses_replace(RUN, max_epochs=3), validation=[case]).run()
    assert outcome.best_dice == 0.6
    assert checkpoint.load(tmp_path / "run").config.provenance["epoch"] == 2
    assert checkpoint.load(tmp_path / "run", prefer="latest").config.provenance["epoch"] == 3


def test_a_bad_loss_stops_and_names_the_case(make: Callable[..., Trainer], tmp_path: Path) -> None:
    objective = StubObjective()
    run = dataclasses_replace(RUN, max_epochs=3)

    class PoisonLater(Silent):
        def epoch(self, record: dict[str, Any]) -> None:
            if record["epoch"] == 1:
                self.good = {n: t.clone() for n, t in objective.net.state_dict().items()}
                objective.nan_at = "ct1"

    progress = PoisonLater()
    trainer = make("run", objective=objective, progress=progress, run=run)
    with pytest.raises(
        DataError, match=r"loss is nan at step [345]; received window of ct1.*last checkpoint is intact"
    ):
        trainer.run()
    assert all(p.isfinite().all() for p in objective.net.parameters())
    assert equal_states(checkpoint.load(tmp_path / "run", prefer="latest").weights, progress.good)


def test_steps_without_labels_change_nothing(make: Callable[..., Trainer]) -> None:
    class Unlabelled(StubObjective):
        def loss(self, batch: Batch, *, done: float) -> tuple[Mean, ...]:
            return (nothing(batch),)

    progress = Silent()
    trainer = make("run", objective=Unlabelled(), progress=progress)
    before = _state(trainer)
    assert trainer.run().finished
    assert equal_states(_state(trainer), before)
    assert progress.losses == [None] * 6 and progress.records[0]["loss"] is None


def test_resuming_needs_a_fitting_checkpoint(make: Callable[..., Trainer], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        make("none").resume()
    make("run").run()
    other = StubObjective()
    other.net.conv = nn.Conv3d(1, 3, 3)
    with pytest.raises(CheckpointError, match="do not fit"):
        make("run", objective=other).resume()
    latest = checkpoint.find(tmp_path / "run", prefer="latest")
    (latest / "training_state.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        make("run").resume()
    (latest / "training_state.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no training state"):
        make("run").resume()


def test_a_static_run_is_not_resumed_with_other_prompts(make: Callable[..., Trainer], tmp_path: Path) -> None:
    make("run").run()
    latest = checkpoint.find(tmp_path / "run", prefer="latest")
    config = json.loads((latest / "config.json").read_text())
    config["kind"] = "static"
    config["prompts"] = config["prompts"][::-1]
    (latest / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="other prompts; received left ball, right ball"):
        make("run").resume()


def test_checkpoints_between_epochs(make: Callable[..., Trainer], tmp_path: Path) -> None:
    seen = []

    class Watching(Silent):
        def step(self, **_: Any) -> None:  # type: ignore[override]
            path = tmp_path / "run" / "checkpoint.json"
            seen.append(json.loads(path.read_text())["latest"] if path.exists() else None)

    make("run", progress=Watching(), run=dataclasses_replace(RUN, save_minutes=0.0)).run()
    # The checkpoint of a step is written after the step is shown.
    assert seen == [None, *(f"checkpoints/latest-{i:08d}" for i in range(1, 6))]


def test_the_learning_rate_rises_then_falls_as_a_cosine() -> None:
    run = options(max_epochs=10, warmup_epochs=2.0, learning_rate=1.0)
    rates = [learning_rate(run, step, steps=5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == 1.0 and rates[30] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(rates[10:])) and 0 < rates[-1] < 0.01
    assert learning_rate(options(warmup_epochs=0.0), 0, steps=5) == pytest.approx(1e-3)


def dataclasses_replace(run: TrainOptions, **changes: Any) -> TrainOptions:
    """Return the options with changes."""
    return type(run)(**{**{f: getattr(run, f) for f in run.__struct_fields__}, **changes})


def test_dice_by_hand() -> None:
    a, b = torch.zeros(4, dtype=torch.bool).numpy(), torch.zeros(4, dtype=torch.bool).numpy()
    assert dice(a, b) == 1.0
    a[:2], b[1:3] = True, True
    assert dice(a, b) == 0.5


def test_validation_scores_the_true_masks() -> None:
    masks = {p: torch.zeros(70, 20, 20, dtype=torch.bool).numpy() for p in ("a", "b", "other")}
    masks["a"][:30], masks["b"][30:60] = True, True
    truth = volume(masks, image=sum(0.25 * (i + 1) * m for i, m in enumerate(masks.values())))

    class Perfect(nn.Module):
        """Logits from the intensity: 0.25 is a, 0.5 is b."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, image: Tensor) -> Tensor:
            return torch.cat([0.1 - (image - level).abs() for level in (0.25, 0.5)], dim=1)

    scores = validate(Perfect(), ("a", "b"), [truth], options())  # type: ignore[arg-type]
    assert scores == {"a": [1.0], "b": [1.0]}
    scores = validate(Perfect(), ("b", "a"), [truth], options())  # type: ignore[arg-type]
    assert scores == {"a": [0.0], "b": [0.0]}


def test_an_outcome_is_a_value() -> None:
    outcome = Outcome(finished=True, epoch=1, best_dice=None, latest=Path("x"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        outcome.epoch = 2  # type: ignore[misc]
