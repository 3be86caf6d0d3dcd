"""Test the training step: learning rates, parameter groups, and unused blocks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gcis_runtime.errors import DataError
from gcis_train.training.distributed import Processes
from gcis_train.training.loop.steps import Stepper, learning_rate
from gcis_train.training.losses import Mean
from gcis_train.training.objectives import Batch
from tests.support.training_values import batch, options


class Objective:
    """A router, a block that is sampled in the first step only, and one that never is."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.ModuleDict(
            {"routers": nn.Linear(2, 2), "sampled": nn.Linear(2, 2), "never": nn.Linear(2, 2)}
        )
        self.first = True

    def loss(self, data: Batch, *, done: float) -> tuple[Mean, ...]:
        x = torch.ones(2)
        total = self.net["routers"](x).square().sum()
        if self.first:
            total = total + self.net["sampled"](x).square().sum()
        self.first = False
        return (Mean(total=total, count=torch.ones(())),)


def _steps(count: int, **changes: object) -> tuple[nn.Module, list[dict[str, torch.Tensor]]]:
    objective = Objective()
    run = options(schedule="constant", warmup_epochs=0.0, weight_decay=0.0, **changes)
    stepper = Stepper(objective, run, Processes(), steps=count)  # type: ignore[arg-type]
    states = [{n: t.clone() for n, t in objective.net.state_dict().items()}]
    for number in range(count):
        stepper.step(batch((8, 8, 8), (("one",),)), number)
        states.append({n: t.clone() for n, t in objective.net.state_dict().items()})
    return objective.net, states


def test_a_block_without_a_sample_rests_or_drifts_as_published() -> None:
    _, rest = _steps(2, unused_blocks="freeze")
    _, drift = _steps(2, unused_blocks="decay")
    assert torch.equal(rest[1]["sampled.weight"], rest[2]["sampled.weight"])
    # In the published sum a block that was not sampled has a gradient of zero: momentum goes on.
    assert not torch.equal(drift[1]["sampled.weight"], drift[2]["sampled.weight"])
    for states in (rest, drift):
        assert torch.equal(states[0]["never.weight"], states[2]["never.weight"])


class Broken:
    """An objective whose window term, router term or router gradient is not finite."""

    def __init__(self, where: str) -> None:
        torch.manual_seed(0)
        self.net = nn.ModuleDict({"routers": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
        self.where = where

    def loss(self, data: Batch, *, done: float) -> tuple[Mean, ...]:
        x, one = torch.ones(2), torch.ones(())
        window = self.net["other"](x).square().sum()
        routers = self.net["routers"](x).square().sum()
        if self.where == "gradient":
            routers = (routers * 0).sqrt()  # finite, with an infinite derivative
        scale = {"window": (math.nan, 1.0), "routers": (1.0, math.nan)}.get(self.where, (1.0, 1.0))
        return (
            Mean(total=scale[0] * window, count=one),
            Mean(total=scale[1] * routers, count=one, of_routers=True),
        )


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("window", r"the loss is nan at step 0; received window of case 0 \(one\).*Check the case"),
        ("routers", r"the loss is nan at step 0; received balance loss of the routers.*--balance"),
        ("gradient", r"gradient norm is nan at step 0; received gradient of the routers.*--router-learning"),
    ],
)
def test_a_loss_that_is_not_finite_is_attributed_to_its_cause(where: str, message: str) -> None:
    stepper = Stepper(Broken(where), options(warmup_epochs=0.0), Processes(), steps=1)
    with pytest.raises(DataError, match=message):
        stepper.step(batch((8, 8, 8), (("one",),)), 0)


def test_routers_may_have_a_rate_of_their_own() -> None:
    _, states = _steps(1, learning_rate=1e-3, router_learning_rate=1e-2)
    # AdamW's first step is as large as the rate.
    for name, rate in (("routers.weight", 1e-2), ("sampled.weight", 1e-3)):
        assert float((states[1][name] - states[0][name]).abs().max()) == pytest.approx(rate, rel=1e-3)


def test_the_published_schedule_changes_between_epochs() -> None:
    run = options(schedule="epoch_cosine", max_epochs=10, warmup_epochs=3.0, learning_rate=1.0)
    rates = [learning_rate(run, step, steps=4) for step in range(40)]
    epochs = rates[::4]
    assert [rates[4 * e : 4 * e + 4] for e in range(10)] == [[r] * 4 for r in epochs]
    assert epochs[:4] == [0.0, 0.5, 1.0, 1.0]
    assert epochs[3 + 7 // 2] > 0.5 > epochs[4 + 7 // 2] and epochs[-1] > 0


def test_a_constant_rate_stays() -> None:
    run = options(schedule="constant", max_epochs=4, warmup_epochs=1.0, learning_rate=1.0)
    assert [learning_rate(run, s, steps=2) for s in range(8)] == [0.5, 1, 1, 1, 1, 1, 1, 1]
