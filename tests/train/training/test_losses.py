"""Test losses: agreement with MONAI and manual calculations; no gradient for unlabelled structures."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss

from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.training.losses import Mean, joint_loss, prompt_loss, soft_dice_loss, value
from gcis_train.training.objectives import Batch, JointObjective, RoutedObjective
from tests.support.training_values import batch


@pytest.mark.parametrize("rows", [1, 3])
def test_prompt_loss_is_monais(rows: int) -> None:
    logits = (3 * torch.randn(rows, 2, 5, 6, 7)).requires_grad_()
    target = (torch.rand(rows, 5, 6, 7) > 0.6).float()
    target[0] = 0  # an empty mask
    ours = prompt_loss(logits, target)
    ours.backward()
    grad, logits.grad = logits.grad, None
    theirs = DiceCELoss(to_onehot_y=True, softmax=True)(logits, target[:, None])
    theirs.backward()
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert grad is not None and logits.grad is not None
    assert torch.allclose(grad, logits.grad, atol=1e-7)


def test_soft_dice_by_hand() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    t = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    # 1 - 2 * 0.5 / (1 + 1), both empty, no overlap.
    assert torch.allclose(soft_dice_loss(p, t), torch.tensor([0.5, 0.0, 1.0]), atol=1e-4)


def test_joint_loss_by_hand() -> None:
    logits = torch.zeros(1, 2, 1, 1, 3)
    target = torch.tensor([0, 1, 1]).view(1, 1, 1, 3)
    loss = value(joint_loss(logits, target, torch.tensor([[True, True]])))
    # Three equal classes: cross-entropy log 3; structure 1: 1 - 2 * (2/3) / (1 + 2) = 5/9; 2 is absent.
    assert float(loss) == pytest.approx(math.log(3) + 5 / 9, abs=1e-4)


def test_an_unlabelled_structure_is_left_alone() -> None:
    logits = torch.randn(2, 3, 2, 2, 4, requires_grad=True)
    target = torch.randint(0, 2, (2, 2, 2, 4))
    known = torch.tensor([[True, False, True], [True, True, True]])
    value(joint_loss(logits, target, known)).backward()
    assert logits.grad is not None
    assert (logits.grad[0, 1] == 0).all()
    assert (logits.grad[1, 1] != 0).any() and (logits.grad[0, 0] != 0).any()
    # And it is not in the softmax of the others: its logit changes nothing.
    changed = logits.detach().clone()
    changed[0, 1] += 5
    assert torch.equal(
        value(joint_loss(changed, target, known)), value(joint_loss(logits.detach(), target, known))
    )


def test_joint_loss_falls_to_zero_at_the_truth() -> None:
    target = torch.randint(0, 3, (1, 4, 4, 4))
    logits = torch.stack([20.0 * (target == c) - 10 for c in (1, 2)], dim=1)
    assert float(value(joint_loss(logits, target, torch.tensor([[True, True]])))) < 1e-3


def test_joint_objective_marks_only_labelled_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [Pathway((0,) * 7), Pathway((0, 0, 0, 0, 0, 0, 1))]
    net = StaticGcisNet(NetworkConfig(feature_size=12, pathways=2), paths)
    logits = torch.zeros(2, 2, 2, 2, 2, requires_grad=True)
    monkeypatch.setattr(net, "forward", lambda image: logits)
    seen = {}
    monkeypatch.setattr(
        "gcis_train.training.objectives.joint_loss",
        lambda m, t, k, **_: seen.update(target=t, known=k) or m.sum(),
    )
    mask = torch.zeros(1, 2, 2, 2)
    mask[0, 1, 1, 1] = 1
    objective = JointObjective(net, ("a", "b"))
    batch = Batch(
        names=("x", "y"),
        images=torch.zeros(2, 1, 2, 2, 2),
        masks=(mask, torch.zeros(0, 2, 2, 2)),
        prompts=(("b",), ()),
        seeds=(0, 1),
    )
    objective.loss(batch, done=0.0)
    assert seen["known"].tolist() == [[False, True], [False, False]]
    assert seen["target"].sum() == 2 and seen["target"][0, 1, 1, 1] == 2
    empty = Batch(
        names=("y",),
        images=torch.zeros(1, 1, 2, 2, 2),
        masks=(torch.zeros(0, 2, 2, 2),),
        prompts=((),),
        seeds=(0,),
    )
    assert [(float(m.total), float(m.count)) for m in objective.loss(empty, done=0.0)] == [(0, 0), (0, 0)]


def test_foreground_weight_by_hand() -> None:
    # Two voxels, one of background: with logits of zero every class of two costs log 2, whatever its
    # weight; a margin of 2 costs background log(1 + e^2) and the structure log(1 + e^-2).
    logits = torch.full((1, 1, 2, 1, 1), 2.0)
    target = torch.tensor([0, 1]).view(1, 2, 1, 1)
    known = torch.ones(1, 1, dtype=torch.bool)
    background, structure = math.log1p(math.exp(2)), math.log1p(math.exp(-2))
    plain = value(joint_loss(logits, target, known))
    heavy = value(joint_loss(logits, target, known, foreground_weight=3.0))
    dice = float(plain) - (background + structure) / 2
    assert float(heavy) == pytest.approx((background + 3 * structure) / 4 + dice, abs=1e-5)


def test_a_batch_in_two_halves_adds_up_to_the_whole() -> None:
    logits, target = torch.randn(4, 3, 2, 3, 4), torch.randint(0, 4, (4, 2, 3, 4))
    known = torch.tensor([[True, True, True]] * 3 + [[True, False, False]])
    whole = joint_loss(logits, target, known, foreground_weight=2.0)
    # Unequal halves: the mean of their means is something else.
    halves = [
        joint_loss(logits[part], target[part], known[part], foreground_weight=2.0)
        for part in (slice(0, 1), slice(1, 4))
    ]
    sums = [Mean(total=a.total + b.total, count=a.count + b.count) for a, b in zip(*halves, strict=True)]
    assert torch.allclose(value(sums), value(whole), atol=1e-6)
    assert not torch.allclose((value(halves[0]) + value(halves[1])) / 2, value(whole), atol=1e-3)


def test_the_balance_loss_is_of_the_routers_alone() -> None:
    net = GcisNet(NetworkConfig(feature_size=12, pathways=2, text_dim=8))
    objective = RoutedObjective(net, ["one", "two"], torch.randn(2, 8), tau=1.0, balance=0.5)
    _, balance = objective.loss(batch((8, 8, 8), ((),)), done=0.0)
    assert balance.of_routers and balance.total.item() > 0
