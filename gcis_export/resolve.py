"""Prompts to pathways: by the router on text embeddings, by hand, or as a static checkpoint says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gcis_runtime.errors import PromptError
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway, group_equal
from gcis_train.routing.decisions import route
from gcis_train.text.prompts import embeddings_of
from gcis_train.weights.checkpoint import Checkpoint, unknown_prompt


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One prompt and where it goes.

    Attributes:
        prompt: The prompt.
        pathway: Its block at each position.
        margins: Router logit of the chosen block minus the runner-up's at each position; None when the
            pathway was not chosen by a router.
    """

    prompt: str
    pathway: Pathway
    margins: tuple[float, float, float, float, float, float, float] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Resolution:
    """What is exported: the prompts in channel order, and the static network that answers them.

    Attributes:
        choices: One for each output channel.
        network: The static network, in evaluation mode.
        routed: The network that it was resolved from; None for a static checkpoint.
    """

    choices: tuple[Choice, ...]
    network: StaticGcisNet
    routed: GcisNet | None

    @property
    def coinciding(self) -> list[list[str]]:
        """Groups of prompts whose seven choices are the same: they give the same mask."""
        return group_equal({choice.prompt: choice.pathway for choice in self.choices})


def resolve(
    checkpoint: Checkpoint,
    prompts: Sequence[str] = (),
    *,
    path_selections: Sequence[str] = (),
    clip_weights: str | None = None,
) -> Resolution:
    """Work out the pathway of each prompt and cut the static network out of the checkpoint.

    Args:
        checkpoint: A routed or static checkpoint.
        prompts: Structures to export, in channel order; none means all of the prompt table.
        path_selections: Pathways by hand, counted from 1, one for each prompt (`"2,1,3,5,3,6,6"`).
        clip_weights: CLIP text weights for prompts that the table lacks: a tag, a file, or `"random"`.

    Raises:
        PromptError: Unknown, repeated or missing prompts, or unreadable path selections.
        CheckpointError: CLIP weights other than the checkpoint's, or a damaged checkpoint.
    """
    wanted = tuple(prompts) or checkpoint.prompts
    _check_names(wanted, path_selections)
    if checkpoint.config.kind == "static":
        choices = _fixed(checkpoint, wanted, by_name=bool(prompts), path_selections=path_selections)
        return Resolution(choices=choices, network=_cut(checkpoint, choices), routed=None)
    net = checkpoint.routed()
    if path_selections:
        choices = tuple(
            Choice(prompt=p, pathway=Pathway.parse(text, pathways=checkpoint.config.network.pathways))
            for p, text in zip(wanted, path_selections, strict=True)
        )
    else:
        embeddings = embeddings_of(checkpoint, wanted, clip_weights=clip_weights)
        choices = tuple(_route(net, p, e) for p, e in embeddings.items())
    network = StaticGcisNet.resolved(net, [choice.pathway for choice in choices]).eval()
    return Resolution(choices=choices, network=network, routed=net)


def _check_names(prompts: Sequence[str], path_selections: Sequence[str]) -> None:
    """Refuse no prompts, empty ones, one twice, and path selections that do not match them."""
    if not prompts:
        raise PromptError(
            "no prompt to export", expected="at least one", fix="Name the structures with --prompt."
        )
    seen: set[str] = set()
    for prompt in prompts:
        key = " ".join(prompt.casefold().split())
        if not key or key in seen:
            raise PromptError(
                "prompts must be distinct and not empty",
                received=repr(prompt),
                fix="Give each structure once.",
            )
        seen.add(key)
    if path_selections and len(path_selections) != len(prompts):
        raise PromptError(
            "path selections and prompts do not match",
            received=f"{len(path_selections)} path selections for {len(prompts)} prompts",
            expected="one --path-selection for each --prompt",
        )


def _fixed(
    checkpoint: Checkpoint, prompts: Sequence[str], *, by_name: bool, path_selections: Sequence[str]
) -> tuple[Choice, ...]:
    """Return the pathways that a static checkpoint holds for the prompts."""
    if path_selections:
        raise PromptError(
            f"{checkpoint.folder.name} is a static checkpoint: its pathways are fixed",
            fix="Leave --path-selection out.",
        )
    fixed = [Pathway(tuple(n - 1 for n in one_based)) for one_based in checkpoint.config.path_selections]
    known = checkpoint.prompts
    if not known:  # imported weights do not say what they segment: --prompt names it
        if len(prompts) != len(fixed):
            raise PromptError(
                "the checkpoint does not name its structures",
                received=f"{len(prompts)} prompts",
                expected=f"{len(fixed)}",
                fix="Give one --prompt for each.",
            )
        return tuple(Choice(prompt=p, pathway=w) for p, w in zip(prompts, fixed, strict=True))
    if by_name and (unknown := [p for p in prompts if p not in known]):
        raise unknown_prompt(unknown[0], known)
    return tuple(Choice(prompt=p, pathway=fixed[known.index(p)]) for p in prompts)


def _cut(checkpoint: Checkpoint, choices: Sequence[Choice]) -> StaticGcisNet:
    """Return the part of a static checkpoint that the choices need."""
    return StaticGcisNet.resolved(checkpoint.static(), [choice.pathway for choice in choices]).eval()


def _route(net: GcisNet, prompt: str, embedding: Tensor) -> Choice:
    """Let the router choose, and note by how much."""
    routing = route(net, prompt, embedding)
    # With a single pathway there is no runner-up, and JSON has no infinity.
    a, b, c, d, e, f, g = (round(m, 4) if math.isfinite(m) else 0.0 for m in routing.router_gaps)
    return Choice(prompt=prompt, pathway=routing.pathway, margins=(a, b, c, d, e, f, g))
