"""Test `--max-minutes` with a clock of the test: schedule, reserved time, interruption, resumption."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from gcis_runtime.errors import DataError
from gcis_train.options.training import TrainOptions
from gcis_train.training.distributed import Processes
from gcis_train.training.loop.budget import Budget
from gcis_train.weights import checkpoint
from tests.support import stub_training
from tests.support.training_values import Silent, options, write_cases

RUN = options(max_minutes=1.0, max_epochs=10, warmup_epochs=1.0, learning_rate=1.0, save_minutes=1e3)
"""One minute, of which a tenth is warm-up; the epochs have three steps."""


class Clock:
    """Clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Slow(Silent):
    """Every step takes some seconds of the clock; the learning rates are stored."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds, self.rates = clock, seconds, list[float]()
        self.trainer: Any = None
        self.stop_after = -1

    def step(self, *, epoch: int, step: int, steps: int, loss: float | None) -> None:
        super().step(epoch=epoch, step=step, steps=steps, loss=loss)
        self.rates.append(self.trainer._stepper.optimizer.param_groups[0]["lr"])
        if len(self.rates) == self.stop_after:
            self.trainer._signal.received = True


def _trainer(folder: Path, clock: Clock, run: TrainOptions = RUN, *, seconds: float = 2.0) -> Any:
    """Return a trainer whose steps take `seconds` and whose validation takes 4 s per case (two cases)."""
    data = folder.parent / "data"
    if not data.exists():
        data.mkdir()
        write_cases(data, 3)
    progress = Slow(clock, seconds)
    made: Any = stub_training.trainer(data, folder, run, progress=progress, clock=clock)
    progress.trainer = made
    update = made._stepper._update

    def slow(*args: Any) -> None:
        clock.now += seconds
        update(*args)

    made._stepper._update = slow
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()

    def validate(_net: Any, prompts: Any, volumes: Any, _options: Any) -> dict[str, list[float]]:
        made.now += 4.0 * len(volumes)
        return {prompts[0]: [0.5]}

    monkeypatch.setattr("gcis_train.training.loop.validation.validate", validate)
    monkeypatch.setattr("gcis_train.training.loop.trainer.validate", validate)
    return made


def _records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_run_is_annealed_and_validated_within_its_time(tmp_path: Path, clock: Clock) -> None:
    trainer = _trainer(tmp_path / "run", clock)
    began = clock.now
    outcome = trainer.run()
    assert outcome.finished and clock.now - began <= 60
    # 4 s for the measured case, 8.8 s reserved; 23 steps of 2 s fit into the remaining 47.2 s.
    rates = trainer._progress.rates
    assert len(rates) == 23
    assert max(rates) == pytest.approx(1.0, abs=0.05) and rates.index(max(rates)) <= 3
    assert all(a >= b for a, b in itertools.pairwise(rates[3:])) and rates[-1] < 0.02
    records = _records(tmp_path / "run")
    assert "dice" in records[-1] and all("dice" not in r for r in records[:-1])
    latest = checkpoint.load(tmp_path / "run", prefer="latest")
    assert latest.config.provenance["epoch"] == outcome.epoch == len(records) == 8
    assert records[0]["windows_per_second"] > 0 and records[0]["peak_memory_gb"] > 0


def test_interrupted_time_does_not_count(tmp_path: Path, clock: Clock) -> None:
    whole = _trainer(tmp_path / "whole", clock)
    whole.run()
    first = _trainer(tmp_path / "parts", clock)
    first._progress.stop_after = 10
    assert not first.run().finished
    clock.now += 1e6
    second = _trainer(tmp_path / "parts", clock)
    assert second._budget.used == pytest.approx(4 + 10 * 2)
    assert second.run().finished
    # A resumed run measures one case again: 4 s, two steps.
    assert len(second._progress.rates) == 23 - 10 - 2
    assert second._progress.rates[-1] < 0.02
    again = _trainer(tmp_path / "parts", clock)
    assert again.run().finished and not again._progress.rates
    longer = _trainer(tmp_path / "parts", clock, type(RUN)(**{**_fields(RUN), "max_minutes": 2.0}))
    assert longer.run().finished and longer._progress.rates


def test_a_state_without_time_is_resumed(tmp_path: Path, clock: Clock) -> None:
    epochs = type(RUN)(**{**_fields(RUN), "max_minutes": 0.0, "max_epochs": 1})
    _trainer(tmp_path / "run", clock, epochs).run()
    path = checkpoint.find(tmp_path / "run", prefer="latest") / "training_state.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    counters = json.loads(header["__metadata__"]["counters"])
    del counters["seconds"], counters["completed_minutes"]
    header["__metadata__"]["counters"] = json.dumps(counters)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    trainer = _trainer(tmp_path / "run", clock)
    assert trainer._budget.used == 0.0 and trainer.run().finished


def test_an_early_validation_only_if_time_is_left(tmp_path: Path, clock: Clock) -> None:
    run = type(RUN)(**{**_fields(RUN), "validate_every": 1, "max_minutes": 0.9})
    began = clock.now
    assert _trainer(tmp_path / "run", clock, run).run().finished
    assert clock.now - began <= 54
    validated = ["dice" in r for r in _records(tmp_path / "run")]
    assert validated == [True, True, False, True]


def test_a_validation_longer_than_the_time_is_an_error(tmp_path: Path, clock: Clock) -> None:
    run = type(RUN)(**{**_fields(RUN), "max_minutes": 0.1})
    with pytest.raises(DataError, match=r"no time for training; received 0.1 minutes; .*--max-minutes"):
        _trainer(tmp_path / "run", clock, run).run()


@pytest.mark.parametrize("due", [1, 100], ids=["each epoch", "at the end"])
def test_a_run_ends_after_a_slow_validation(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, due: int
) -> None:
    run = type(RUN)(**{**_fields(RUN), "validate_every": due})
    trainer = _trainer(tmp_path / "run", clock, run)
    validated = []

    def slow(*_args: Any, **_options: Any) -> dict[str, list[float]]:
        clock.now += 100
        validated.append(clock.now)
        return {"liver": [0.5]}

    monkeypatch.setattr("gcis_train.training.loop.trainer.validate_share", slow)
    assert trainer.run().finished and len(validated) == 1
    assert _records(tmp_path / "run")[-1]["dice"] == 0.5
    again = _trainer(tmp_path / "run", clock, run)
    assert again.run().finished and not again._progress.rates


def test_an_interrupted_run_without_time_ends(tmp_path: Path, clock: Clock) -> None:
    first = _trainer(tmp_path / "run", clock)
    first._progress.stop_after = 10
    assert not first.run().finished
    shorter = type(RUN)(**{**_fields(RUN), "max_minutes": 0.1})
    second = _trainer(tmp_path / "run", clock, shorter)
    assert second.run().finished and not second._progress.rates
    assert "dice" in _records(tmp_path / "run")[-1]


@pytest.mark.parametrize(("every", "save_minutes"), [(0, 1e3), (1, 1e3), (0, 0.0)])
def test_time_is_reserved_for_all_checkpoints(
    tmp_path: Path, clock: Clock, every: int, save_minutes: float
) -> None:
    run = type(RUN)(**{**_fields(RUN), "save_every": every, "save_minutes": save_minutes})
    trainer = _trainer(tmp_path / "run", clock, run)
    save, began = trainer._save, clock.now

    def slow(role: str) -> None:
        clock.now += 3
        save(role)

    trainer._save = slow
    assert trainer.run().finished and trainer._progress.rates
    assert clock.now - began <= 60


def test_without_a_limit_nothing_is_measured() -> None:
    budget = Budget(0.0, lambda: 1 / 0, Processes(), checkpoints=4)  # type: ignore[arg-type, return-value]
    budget.step()
    assert not budget.over and budget.has_time_to_validate and budget.used == 0.0


def _fields(run: TrainOptions) -> dict[str, Any]:
    return {name: getattr(run, name) for name in run.__struct_fields__}
