"""Compute router statistics: use of each block, certainty of the prompts, and agreement between them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gcis_runtime.bundles.manifest import POSITIONS
from gcis_train.nets.pathway import Pathway, group_equal


@dataclasses.dataclass(frozen=True, kw_only=True)
class RouterHealth:
    """Statistics of the routers over all prompts, per decoder position.

    Attributes:
        use: Probability that training samples each block, mean over prompts: (7, K).
        chosen: Number of prompts for which evaluation uses each block: (7, K).
        entropy: Entropy of `use`, relative to uniform use: 1 if all blocks are used equally, 0 if one is.
        undecided: Mean entropy of the block distribution per prompt, on the same scale: 0 if every prompt
            samples one block only.
        agree: Share of prompts for which evaluation uses the most used block of the position.
        collapsed: Positions at which all prompts use the same block (with several prompts and blocks).
        same: Groups of prompts with identical pathways.
    """

    use: tuple[tuple[float, ...], ...]
    chosen: tuple[tuple[int, ...], ...]
    entropy: tuple[float, ...]
    undecided: tuple[float, ...]
    agree: tuple[float, ...]
    collapsed: tuple[str, ...]
    same: tuple[tuple[str, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return builtin values for JSON, by position."""
        rows = zip(POSITIONS, self.use, self.chosen, self.entropy, self.undecided, self.agree, strict=True)
        positions = {
            name: {
                "use": [round(u, 4) for u in use],
                "chosen": list(chosen),
                "entropy": round(entropy, 4),
                "undecided": round(undecided, 4),
                "agree": round(agree, 4),
            }
            for name, use, chosen, entropy, undecided, agree in rows
        }
        same = [list(group) for group in self.same]
        return {"positions": positions, "collapsed": list(self.collapsed), "same": same}

    def scalars(self) -> dict[str, float]:
        """Return TensorBoard scalars by name."""
        curves: dict[str, float] = {}
        for index, name in enumerate(POSITIONS):
            curves[f"router_entropy/{name}"] = self.entropy[index]
            curves[f"router_undecided/{name}"] = self.undecided[index]
            curves[f"router_agree/{name}"] = self.agree[index]
            for block, share in enumerate(self.use[index], start=1):
                curves[f"router_use/{name}/{block}"] = share
        return curves

    def line(self) -> str:
        """Return a one-line summary with the percentages at each position."""
        agree = " ".join(f"{100 * a:.0f}" for a in self.agree)
        entropy = " ".join(f"{100 * e:.0f}" for e in self.entropy)
        undecided = " ".join(f"{100 * u:.0f}" for u in self.undecided)
        span = f"{POSITIONS[0]} to {POSITIONS[-1]}"
        line = f"  routing, % at {span}: agree {agree}; entropy {entropy}; undecided {undecided}"
        groups = "; ".join(" = ".join(group) for group in self.same)
        return f"{line}; same pathway: {groups}" if groups else line

    def warning(self) -> str:
        """Return a warning that names the collapsed positions."""
        return (
            f"warning: all prompts use the same block at {', '.join(self.collapsed)} "
            "(--balance, --router-learning-rate or --router-gap separate the pathways of prompts)"
        )


def router_health(logits: Tensor, prompts: Sequence[str]) -> RouterHealth:
    """Return statistics of the router logits.

    Args:
        logits: (P, 7, K) router logits of P prompts over K blocks.
        prompts: The P prompts.
    """
    log_probability = logits.detach().double().log_softmax(-1)
    blocks = logits.shape[-1]
    choice = logits.argmax(-1)
    counts = torch.nn.functional.one_hot(choice, blocks).sum(0)
    agree = counts.max(-1).values / len(prompts)
    whole = math.log(blocks) if blocks > 1 else 1.0
    log_use = _log_mean(log_probability)
    several = len(prompts) > 1 and blocks > 1
    pathways = {p: Pathway(tuple(c)) for p, c in zip(prompts, choice.tolist(), strict=True)}
    return RouterHealth(
        use=tuple(tuple(row) for row in log_use.exp().tolist()),
        chosen=tuple(tuple(row) for row in counts.tolist()),
        entropy=tuple((entropy(log_use) / whole).tolist()),
        undecided=tuple((entropy(log_probability).mean(0) / whole).tolist()),
        agree=tuple(agree.tolist()),
        collapsed=tuple(n for n, a in zip(POSITIONS, agree.tolist(), strict=True) if several and a == 1),
        same=tuple(tuple(group) for group in group_equal(pathways)),
    )


def balance_loss(logits: Tensor) -> Tensor:
    """Return one minus the normalised mutual information of prompt and block, averaged over positions.

    The mutual information is the entropy of the mean use of the blocks minus the mean entropy of the block
    distribution per prompt. It is maximal, and the loss zero, if prompts use different blocks with certainty
    and all blocks equally. A loss on equal use alone would already be minimal with uniform distributions.

    Args:
        logits: (P, 7, K) router logits.

    Returns:
        Scalar in [0, 1].
    """
    prompts, _, blocks = logits.shape
    largest = math.log(min(prompts, blocks))
    if largest == 0:
        return logits.new_zeros(())
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probability = wide.log_softmax(-1)
    information = entropy(_log_mean(log_probability)) - entropy(log_probability).mean(0)
    return 1.0 - information.mean() / largest


def entropy(log_probability: Tensor) -> Tensor:
    """Return the entropy over the last axis, in nats.

    Computed from logarithms: a router gap above about 100 makes probabilities underflow to zero, where the
    gradient of p log p is infinite and that of the softmax zero; their product is not a number.
    """
    return -(log_probability.exp() * log_probability).sum(-1)


def _log_mean(log_probability: Tensor) -> Tensor:
    """Return the logarithm of the mean probability over the first axis."""
    return log_probability.logsumexp(0) - math.log(len(log_probability))
