"""Copy the blocks of a static network into every pathway of a routed one (sparse upcycling).

Follows Komatsuzaki et al., "Sparse Upcycling: Training Mixture-of-Experts from Dense Checkpoints" (2022):
a dense network learns faster, and its copies then specialise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gcis_runtime.errors import PromptError
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway, Spread, next_pathway, separate

ROUTER_GAP = 9.0
"""Router logit of the assigned block minus that of every other block.

With six blocks, a prompt then samples its assigned blocks at all seven positions in 996 of 1000 draws; with a
gap of 4, in 54 of 100 (docs/decisions/0010).
"""


def upcycle(
    static: StaticGcisNet, embeddings: Tensor, *, router_gap: float = ROUTER_GAP, spread: Spread = "last"
) -> GcisNet:
    """Return a routed network with the same output as a static one for each of its prompts.

    Every block is a copy of a block of the static network at the same position; blocks that no prompt uses
    are copies of the static blocks in turn. Routers are fitted so that every embedding selects the pathway of
    its prompt.

    Args:
        static: A network with one pathway per prompt.
        embeddings: (P, text_dim) embeddings, linearly independent: first those of its pathways in their
            order, then those of new prompts (`next_pathway`), whose outputs mean nothing before training.
        router_gap: Difference between the router logits of the assigned block and every other block.
        spread: `"last"` keeps the pathways of the static network. `"all"` gives prompts different blocks at
            all seven positions (`separate`), so that they can be trained apart; each prompt then needs its
            own pass through the decoder.

    Raises:
        PromptError: The embeddings are not linearly independent, or there are too many prompts.
    """
    count = static.config.pathways
    sources = list(static.pathways)
    while len(sources) < len(embeddings):
        sources.append(next_pathway(sources, pathways=count))
    pathways = tuple(sources) if spread == "last" else separate(sources, pathways=count)
    net = GcisNet(static.config)
    theirs, ours = static.state_dict(), net.state_dict()
    for name in ours:
        if not name.startswith("routers."):
            ours[name] = theirs[_copied_from(name, theirs, sources, pathways)]
    net.load_state_dict(ours)
    fit_routers(net, embeddings, pathways, gap=router_gap)
    return net


def _copied_from(
    name: str, theirs: Mapping[str, Tensor], sources: Sequence[Pathway], pathways: Sequence[Pathway]
) -> str:
    """Return the name of the tensor of the static network to copy into the parameter `name`."""
    parts = name.split(".")
    if parts[0] != "decoder" or parts[3] != "blocks":
        return name
    position, block = int(parts[2]), int(parts[4])
    copies = {p.choices[position]: s.choices[position] for s, p in zip(sources, pathways, strict=True)}
    wanted = copies.get(block, block)
    present = sorted({int(n.split(".")[4]) for n in theirs if n.startswith(".".join((*parts[:4], "")))})
    parts[4] = str(wanted if wanted in present else present[wanted % len(present)])
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
