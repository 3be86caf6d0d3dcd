"""Sparse upcycling: a static network's blocks copied into every pathway of a routed one.

Follows Komatsuzaki et al., "Sparse Upcycling: Training Mixture-of-Experts from Dense Checkpoints" (2022):
a dense network learns faster; its copies then specialise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gcis_runtime.errors import PromptError
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway

ROUTER_MARGIN = 9.0
"""Router logit of a prompt's own block above the others: with six blocks it samples its own at all seven
positions in 996 of 1000 draws; a margin of 4 did so in 54 of 100 (docs/decisions/0010)."""


def upcycle(static: StaticGcisNet, embeddings: Tensor, *, router_margin: float = ROUTER_MARGIN) -> GcisNet:
    """Return a routed network that gives the static network's answers for its prompts.

    Blocks that a pathway uses keep their index; the other indices of a position get copies of them in turn.
    Routers are fitted so that every embedding chooses its prompt's pathway.

    Args:
        static: A network with one pathway a prompt.
        embeddings: (P, text_dim) embeddings in the order of its pathways; linearly independent.
        router_margin: Logit difference to fit.

    Raises:
        PromptError: The embeddings do not tell the prompts apart.
    """
    net = GcisNet(static.config)
    source = static.state_dict()
    target = net.state_dict()
    for name in target:
        if name.startswith("routers."):
            continue
        target[name] = source[name] if name in source else source[_copied_from(name, static.pathways)]
    net.load_state_dict(target)
    fit_routers(net, embeddings, static.pathways, margin=router_margin)
    return net


def _copied_from(name: str, pathways: Sequence[Pathway]) -> str:
    """Return the parameter that the unused block of `name` (`decoder.positions.P.blocks.I.*`) starts from."""
    parts = name.split(".")
    used = sorted({p.choices[int(parts[2])] for p in pathways})
    parts[4] = str(used[int(parts[4]) % len(used)])
    return ".".join(parts)


def fit_routers(net: GcisNet, embeddings: Tensor, pathways: Sequence[Pathway], *, margin: float) -> None:
    """Set the routers so that embedding `i` gets logit `margin` at `pathways[i]` and zero elsewhere.

    The least-norm solution on centred embeddings, so that what prompts have in common does not count.

    Args:
        net: The network whose routers are set.
        embeddings: (P, text_dim).
        pathways: P pathways.
        margin: Logit of the chosen block above the others.

    Raises:
        PromptError: The embeddings do not tell the prompts apart.
    """
    mean = embeddings.double().mean(0)
    inverse = torch.linalg.pinv(embeddings.double() - mean)
    for index, router in enumerate(net.routers):
        wanted = torch.zeros(len(pathways), net.config.pathways, dtype=torch.float64)
        for row, pathway in enumerate(pathways):
            wanted[row, pathway.choices[index]] = margin
        average = wanted.mean(0)
        weight = (inverse @ (wanted - average)).T
        _set(router, weight, average - weight @ mean)
    if [net.resolve(e) for e in embeddings.float()] != list(pathways):
        raise PromptError(
            "the text embeddings do not tell the prompts apart",
            received=f"{len(pathways)} prompts with embeddings of {embeddings.shape[1]} numbers",
            expected="linearly independent embeddings",
            fix="Use other text weights, or word the prompts more differently.",
        )


def _set(router: nn.Module, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        router.weight.copy_(weight.float())  # type: ignore[operator]
        router.bias.copy_(bias.float())  # type: ignore[operator]
