"""What the routers do: how much each pathway is used, how decided prompts are, which of them agree."""

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
    """The routers' state over all prompts, seven positions each.

    Attributes:
        use: Probability that training samples each block, mean over prompts: (7, K).
        chosen: Number of prompts whose evaluation uses each block: (7, K).
        entropy: Entropy of `use`, as a share of that of equal use: 1 all blocks alike, 0 a single one.
        undecided: Mean entropy of a prompt's own distribution, as the same share: 0 every prompt samples
            one block only.
        agree: Share of prompts whose evaluation uses the position's most used block.
        collapsed: Positions where all prompts (more than one) use the same of several blocks.
        same: Groups of prompts that agree at all seven positions.
    """

    use: tuple[tuple[float, ...], ...]
    chosen: tuple[tuple[int, ...], ...]
    entropy: tuple[float, ...]
    undecided: tuple[float, ...]
    agree: tuple[float, ...]
    collapsed: tuple[str, ...]
    same: tuple[tuple[str, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON, by position."""
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
        """Return curves for TensorBoard by name."""
        curves: dict[str, float] = {}
        for index, name in enumerate(POSITIONS):
            curves[f"router_entropy/{name}"] = self.entropy[index]
            curves[f"router_undecided/{name}"] = self.undecided[index]
            curves[f"router_agree/{name}"] = self.agree[index]
            for block, share in enumerate(self.use[index], start=1):
                curves[f"router_use/{name}/{block}"] = share
        return curves

    def line(self) -> str:
        """Return one line for people: position by position, in per cent."""
        agree = " ".join(f"{100 * a:.0f}" for a in self.agree)
        entropy = " ".join(f"{100 * e:.0f}" for e in self.entropy)
        undecided = " ".join(f"{100 * u:.0f}" for u in self.undecided)
        span = f"{POSITIONS[0]} to {POSITIONS[-1]}"
        line = f"  routing, % at {span}: agree {agree}; entropy {entropy}; undecided {undecided}"
        groups = "; ".join(" = ".join(group) for group in self.same)
        return f"{line}; one pathway: {groups}" if groups else line

    def warning(self) -> str:
        """Return the warning about collapsed positions."""
        return (
            f"warning: every prompt uses one and the same block at {', '.join(self.collapsed)} "
            "(--balance, --router-learning-rate or --router-margin keep prompts apart)"
        )


def router_health(logits: Tensor, prompts: Sequence[str]) -> RouterHealth:
    """Describe routers by their logits.

    Args:
        logits: (P, 7, K).
        prompts: Their P prompts.
    """
    probability = logits.detach().double().softmax(-1)
    blocks = logits.shape[-1]
    choice = logits.argmax(-1)
    counts = torch.nn.functional.one_hot(choice, blocks).sum(0)
    agree = counts.max(-1).values / len(prompts)
    whole = math.log(blocks) if blocks > 1 else 1.0
    use = probability.mean(0)
    several = len(prompts) > 1 and blocks > 1
    pathways = {p: Pathway(tuple(c)) for p, c in zip(prompts, choice.tolist(), strict=True)}
    return RouterHealth(
        use=tuple(tuple(row) for row in use.tolist()),
        chosen=tuple(tuple(row) for row in counts.tolist()),
        entropy=tuple((entropy(use) / whole).tolist()),
        undecided=tuple((entropy(probability).mean(0) / whole).tolist()),
        agree=tuple(agree.tolist()),
        collapsed=tuple(n for n, a in zip(POSITIONS, agree.tolist(), strict=True) if several and a == 1),
        same=tuple(tuple(group) for group in group_equal(pathways)),
    )


def balance_loss(logits: Tensor) -> Tensor:
    """Return how far the routers are from telling prompts apart, between 0 and 1, mean over positions.

    At each position, the mutual information of prompt and block: the entropy of the blocks' mean use minus
    the mean entropy of a prompt's own choice. It is largest, and the loss zero, when prompts use different
    blocks, all blocks are used alike, and every prompt is decided. A balance of use alone is already there
    when every prompt is undecided.

    Args:
        logits: (P, 7, K).
    """
    prompts, _, blocks = logits.shape
    largest = math.log(min(prompts, blocks))
    if largest == 0:
        return logits.new_zeros(())
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    probability = wide.softmax(-1)
    information = entropy(probability.mean(0)) - entropy(probability).mean(0)
    return 1.0 - information.mean() / largest


def entropy(probability: Tensor) -> Tensor:
    """Return the entropy (nats) over the last axis."""
    result: Tensor = torch.special.entr(probability).sum(-1)
    return result
