"""What the router decided: pathway and margin of each prompt."""

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
    """A prompt's pathway and, at each position, by how much its block won over the runner-up (logits)."""

    prompt: str
    pathway: Pathway
    router_gaps: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it with the pathway counted from 1, ready for JSON; an infinite margin is null there."""
        return {
            "prompt": self.prompt,
            "path_selection": list(self.pathway.one_based),
            "margins": [round(m, 4) if math.isfinite(m) else None for m in self.router_gaps],
        }


def route(net: GcisNet, prompt: str, embedding: Tensor) -> Routing:
    """Return the pathway that evaluation uses, with router margins (infinite with a single pathway)."""
    with torch.no_grad():
        logits = net.route(embedding)
    ranked = logits.sort(dim=-1, descending=True).values
    single = logits.shape[-1] == 1
    margins = [float("inf")] * len(POSITIONS) if single else (ranked[:, 0] - ranked[:, 1]).tolist()
    return Routing(prompt=prompt, pathway=net.resolve(embedding), router_gaps=tuple(margins))


def routing_table(routings: list[Routing]) -> str:
    """Return an aligned text table, pathways counted from 1."""
    width = max(len("prompt"), *(len(r.prompt) for r in routings))
    lines = [f"{'prompt':<{width}}  " + "  ".join(f"{name:>9}" for name in POSITIONS)]
    for r in routings:
        cells = [f"{n} ({m:.1f})" for n, m in zip(r.pathway.one_based, r.router_gaps, strict=True)]
        lines.append(f"{r.prompt:<{width}}  " + "  ".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)


def coincidences(pathways: dict[str, Pathway]) -> list[str]:
    """Return one warning for each group of prompts whose seven choices coincide: their masks are the same."""
    return [
        f"warning: {', '.join(repr(p) for p in group)} share all seven pathways "
        f"({pathways[group[0]]}): they give the same mask"
        for group in group_equal(pathways)
    ]
