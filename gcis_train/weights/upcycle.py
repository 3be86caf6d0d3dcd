"""Copy the blocks of a static network into every pathway of a routed one (sparse upcycling).

Follows Komatsuzaki et al., "Sparse Upcycling: Training Mixture-of-Experts from Dense Checkpoints" (2022):
a dense network learns faster, and its copies then specialise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gcis_runtime.errors import PromptError
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway

ROUTER_GAP = 9.0
"""Router logit of the assigned block minus that of every other block.

With six blocks, a prompt then samples its assigned blocks at all seven positions in 996 of 1000 draws; with a
gap of 4, in 54 of 100 (docs/decisions/0010).
"""


def upcycle(static: StaticGcisNet, embeddings: Tensor, *, router_gap: float = ROUTER_GAP) -> GcisNet:
    """Return a routed network with the same output as a static one for each of its prompts.

    Blocks that a pathway uses keep their index; the other indices of a position receive copies of them in
    turn. Routers are fitted so that every embedding selects the pathway of its prompt.

    Args:
        static: A network with one pathway per prompt.
        embeddings: (P, text_dim) embeddings in the order of its pathways; linearly independent.
        router_gap: Difference between the router logits of the assigned block and every other block.

    Raises:
        PromptError: The embeddings are not linearly independent.
    """
    net = GcisNet(static.config)
    source = static.state_dict()
    target = net.state_dict()
    for name in target:
        if name.startswith("routers."):
            continue
        target[name] = source[name] if name in source else source[_copied_from(name, static.pathways)]
    net.load_state_dict(target)
    fit_routers(net, embeddings, static.pathways, gap=router_gap)
    return net


def _copied_from(name: str, pathways: Sequence[Pathway]) -> str:
    """Return the name of the parameter to copy into `name`, a parameter of an unused block."""
    parts = name.split(".")
    used = sorted({p.choices[int(parts[2])] for p in pathways})
    parts[4] = str(used[int(parts[4]) % len(used)])
    return ".".join(parts)


def fit_routers(net: GcisNet, embeddings: Tensor, pathways: Sequence[Pathway], *, gap: float) -> None:
    """Set the routers so that embedding `i` has router logit `gap` at `pathways[i]` and zero elsewhere.

    The weights are the minimum-norm solution on centred embeddings, so that the component common to all
    prompts has no effect.

    Args:
        net: Network whose routers are set.
        embeddings: (P, text_dim) embeddings.
        pathways: The P pathways.
        gap: Router logit of the assigned block minus that of every other block.

    Raises:
        PromptError: The embeddings are not linearly independent.
    """
    mean = embeddings.double().mean(0)
    inverse = torch.linalg.pinv(embeddings.double() - mean)
    for index, router in enumerate(net.routers):
        wanted = torch.zeros(len(pathways), net.config.pathways, dtype=torch.float64)
        for row, pathway in enumerate(pathways):
            wanted[row, pathway.choices[index]] = gap
        average = wanted.mean(0)
        weight = (inverse @ (wanted - average)).T
        _set(router, weight, average - weight @ mean)
    if [net.resolve(e) for e in embeddings.float()] != list(pathways):
        raise PromptError(
            "the text embeddings do not distinguish the prompts",
            received=f"{len(pathways)} prompts with embeddings of {embeddings.shape[1]} numbers",
            expected="linearly independent embeddings",
            fix="Use other text weights, or prompts whose wording differs more.",
        )


def _set(router: nn.Module, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        router.weight.copy_(weight.float())  # type: ignore[operator]
        router.bias.copy_(bias.float())  # type: ignore[operator]
