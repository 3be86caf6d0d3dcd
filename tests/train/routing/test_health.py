"""Test router statistics (use, entropy, agreement) and the balance loss."""

from __future__ import annotations

import json
import math

import pytest
import torch

from gcis_runtime.bundles.manifest import POSITIONS
from gcis_train.routing.health import balance_loss, router_health


def _logits(choices: list[list[int]], blocks: int, lead: float) -> torch.Tensor:
    """Return router logits (P, 7, K) with `lead` at the choices of each prompt."""
    return lead * torch.nn.functional.one_hot(torch.tensor(choices), blocks).float()


def test_health_by_hand() -> None:
    # Three prompts: all agree at the first five positions, two at the sixth, none at the last.
    choices = [[0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1, 2]]
    health = router_health(_logits(choices, 3, 50.0), ("a", "b", "c"))
    assert health.agree == pytest.approx((1, 1, 1, 1, 1, 2 / 3, 1 / 3))
    assert health.chosen[5] == (2, 1, 0) and health.chosen[6] == (1, 1, 1)
    assert health.use[5] == pytest.approx((2 / 3, 1 / 3, 0))
    assert health.entropy[0] == pytest.approx(0, abs=1e-6) and health.entropy[6] == pytest.approx(1)
    two_thirds = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)) / math.log(3)
    assert health.entropy[5] == pytest.approx(two_thirds)
    assert health.undecided == pytest.approx((0,) * 7, abs=1e-6)
    assert health.collapsed == POSITIONS[:5] and health.same == ()
    assert "decoder10, decoder5, decoder4, decoder3, decoder2 " in health.warning()
    assert "agree 100 100 100 100 100 67 33; entropy 0 0 0 0 0 58 100; undecided 0" in health.line()
    assert json.loads(json.dumps(health.as_dict()))["positions"]["out"]["chosen"] == [1, 1, 1]
    curves = health.scalars()
    assert curves["router_use/decoder1/1"] == pytest.approx(2 / 3) and len(curves) == 7 * 6


def test_undecided_prompts_have_entropy_without_telling_apart() -> None:
    health = router_health(torch.zeros(2, 7, 4), ("a", "b"))
    assert health.entropy == pytest.approx((1,) * 7) and health.undecided == pytest.approx((1,) * 7)
    assert health.same == (("a", "b"),) and "same pathway: a = b" in health.line()
    assert health.collapsed == POSITIONS  # evaluation sends both through the same block


@pytest.mark.parametrize(("prompts", "blocks"), [(1, 3), (2, 1)])
def test_what_cannot_collapse_does_not(prompts: int, blocks: int) -> None:
    health = router_health(torch.randn(prompts, 7, blocks), tuple("ab"[:prompts]))
    assert health.collapsed == ()
    assert float(balance_loss(torch.randn(prompts, 7, blocks))) == 0


def test_the_balance_loss_is_zero_for_decided_prompts_on_blocks_of_their_own() -> None:
    apart = _logits([[0] * 7, [1] * 7, [2] * 7], 3, 50.0)
    together = _logits([[0] * 7] * 3, 3, 50.0)
    assert float(balance_loss(apart)) == pytest.approx(0, abs=1e-5)
    assert float(balance_loss(together)) == pytest.approx(1, abs=1e-5)
    assert float(balance_loss(torch.zeros(3, 7, 3))) == pytest.approx(1, abs=1e-5)  # balanced, undecided
    assert 0 < float(balance_loss(_logits([[0] * 7, [0] * 7, [1] * 7], 3, 50.0))) < 1


def test_a_large_router_gap_gives_finite_numbers_and_gradients() -> None:
    """From about 100 on, float32 probabilities underflow to zero."""
    logits = _logits([[0] * 7, [0] * 7, [1] * 7], 3, 200.0).requires_grad_()
    loss = balance_loss(logits)
    loss.backward()
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())
    assert loss.item() == pytest.approx(float(balance_loss(logits.detach().double())), abs=1e-6)
    health = router_health(logits.detach(), ("a", "b", "c"))
    assert health.undecided == pytest.approx((0.0,) * 7) and health.use[0] == pytest.approx((2 / 3, 1 / 3, 0))


def test_its_gradient_parts_prompts() -> None:
    logits = (0.1 * torch.randn(4, 7, 4)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        balance_loss(logits).backward()
        optimizer.step()
    health = router_health(logits.detach(), tuple("abcd"))
    assert health.same == () and max(health.agree) <= 0.5
    assert min(health.entropy) > 0.7 and max(health.undecided) < 0.2  # one position may keep a pair
