"""Determine the pathway and the router gaps of each prompt."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from gcis_runtime.bundles.manifest import POSITIONS
from gcis_train.nets.network import GcisNet
from gcis_train.nets.pathway import Pathway, group_equal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routing:
    """Routing of one prompt.

    Attributes:
        prompt: The prompt.
        pathway: Block chosen at each of the seven positions.
        router_gaps: At each position, the router logit of the chosen block minus the second largest; infinite
            with a single pathway.
    """

    prompt: str
    pathway: Pathway
    router_gaps: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return values for JSON: the pathway counted from 1, the gaps as `margins`, infinity as None."""
        return {
            "prompt": self.prompt,
            "path_selection": list(self.pathway.one_based),
            "margins": [round(gap, 4) if math.isfinite(gap) else None for gap in self.router_gaps],
        }


def route(net: GcisNet, prompt: str, embedding: Tensor) -> Routing:
    """Return the pathway that evaluation uses for a prompt, with its router gaps.

    Args:
        net: The routed network.
        prompt: The prompt.
        embedding: (text_dim,) text embedding of the prompt.
    """
    with torch.no_grad():
        logits = net.route(embedding)
    ranked = logits.sort(dim=-1, descending=True).values
    single = logits.shape[-1] == 1
    gaps = [float("inf")] * len(POSITIONS) if single else (ranked[:, 0] - ranked[:, 1]).tolist()
    return Routing(prompt=prompt, pathway=net.resolve(embedding), router_gaps=tuple(gaps))


def routing_table(routings: list[Routing]) -> str:
    """Return a text table with one line per prompt: blocks counted from 1, gaps in parentheses."""
    width = max(len("prompt"), *(len(r.prompt) for r in routings))
    lines = [f"{'prompt':<{width}}  " + "  ".join(f"{name:>9}" for name in POSITIONS)]
    for r in routings:
        cells = [f"{n} ({gap:.1f})" for n, gap in zip(r.pathway.one_based, r.router_gaps, strict=True)]
        lines.append(f"{r.prompt:<{width}}  " + "  ".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)


def coincidences(pathways: dict[str, Pathway]) -> list[str]:
    """Return one warning per group of prompts with identical pathways, and therefore identical masks."""
    return [
        f"warning: {', '.join(repr(p) for p in group)} have the same pathway "
        f"({pathways[group[0]]}) and therefore the same mask"
        for group in group_equal(pathways)
    ]
