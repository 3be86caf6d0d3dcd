"""Resolve prompts to pathways and a static network: by the router, by hand, or from a static checkpoint."""

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
    """One prompt and its pathway.

    Attributes:
        prompt: The prompt.
        pathway: Selected block at each position.
        router_gaps: Router logit of the selected block minus that of the runner-up, at each position; None if
            no router selected the pathway.
    """

    prompt: str
    pathway: Pathway
    router_gaps: tuple[float, float, float, float, float, float, float] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Resolution:
    """Prompts in channel order, and the static network that segments them.

    Attributes:
        choices: One choice per output channel.
        network: The static network, in evaluation mode.
        routed: Routed network that the static one was resolved from; None for a static checkpoint.
    """

    choices: tuple[Choice, ...]
    network: StaticGcisNet
    routed: GcisNet | None

    @property
    def coinciding(self) -> list[list[str]]:
        """Groups of prompts with equal pathways, whose masks are therefore equal."""
        return group_equal({choice.prompt: choice.pathway for choice in self.choices})


def resolve(
    checkpoint: Checkpoint,
    prompts: Sequence[str] = (),
    *,
    path_selections: Sequence[str] = (),
    clip_weights: str | None = None,
) -> Resolution:
    """Resolve each prompt to a pathway and extract the static network from the checkpoint.

    Args:
        checkpoint: A routed or static checkpoint.
        prompts: Prompts in channel order; empty means all prompts of the checkpoint.
        path_selections: Pathways selected by hand, counted from 1, one per prompt (`"2,1,3,5,3,6,6"`).
        clip_weights: CLIP text weights for prompts that the checkpoint has no embedding of: a tag, a file, or
            `"random"`.

    Raises:
        PromptError: A prompt is unknown, repeated or missing, or a path selection is invalid.
        CheckpointError: The CLIP weights differ from those of the checkpoint, or the checkpoint is damaged.
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
    """Raise if there is no prompt, a prompt is empty or repeated, or path selections do not match."""
    if not prompts:
        raise PromptError(
            "no prompt to export",
            received="a checkpoint without prompts and no --prompt",
            expected="at least one prompt",
            fix="Name the structures with --prompt.",
        )
    seen: set[str] = set()
    for prompt in prompts:
        key = " ".join(prompt.casefold().split())
        if not key or key in seen:
            raise PromptError(
                "prompts must be distinct and not empty",
                received=repr(prompt),
                expected="each prompt once, ignoring case and spaces",
                fix="Give each structure once with --prompt.",
            )
        seen.add(key)
    if path_selections and len(path_selections) != len(prompts):
        raise PromptError(
            "path selections and prompts do not match",
            received=f"{len(path_selections)} path selections for {len(prompts)} prompts",
            expected="one --path-selection per --prompt",
            fix="Repeat --path-selection in the order of --prompt, or omit it.",
        )


def _fixed(
    checkpoint: Checkpoint, prompts: Sequence[str], *, by_name: bool, path_selections: Sequence[str]
) -> tuple[Choice, ...]:
    """Return the pathways of the prompts in a static checkpoint."""
    if path_selections:
        raise PromptError(
            f"{checkpoint.folder.name} is a static checkpoint: its pathways are fixed",
            received="--path-selection",
            fix="Omit --path-selection.",
        )
    fixed = [Pathway(tuple(n - 1 for n in one_based)) for one_based in checkpoint.config.path_selections]
    known = checkpoint.prompts
    if not known:  # imported weights have no names of structures; --prompt supplies them
        if len(prompts) != len(fixed):
            raise PromptError(
                "the checkpoint does not name its structures",
                received=f"{len(prompts)} prompts",
                expected=f"{len(fixed)} prompts",
                fix="Give one --prompt per pathway of the checkpoint.",
            )
        return tuple(Choice(prompt=p, pathway=w) for p, w in zip(prompts, fixed, strict=True))
    if by_name and (unknown := [p for p in prompts if p not in known]):
        raise unknown_prompt(unknown[0], known)
    return tuple(Choice(prompt=p, pathway=fixed[known.index(p)]) for p in prompts)


def _cut(checkpoint: Checkpoint, choices: Sequence[Choice]) -> StaticGcisNet:
    """Return a static network with only the blocks that the choices use."""
    return StaticGcisNet.resolved(checkpoint.static(), [choice.pathway for choice in choices]).eval()


def _route(net: GcisNet, prompt: str, embedding: Tensor) -> Choice:
    """Return the pathway that the router selects, with the router gaps."""
    routing = route(net, prompt, embedding)
    # With a single pathway per position there is no runner-up, and JSON has no infinity.
    a, b, c, d, e, f, g = (round(m, 4) if math.isfinite(m) else 0.0 for m in routing.router_gaps)
    return Choice(prompt=prompt, pathway=routing.pathway, router_gaps=(a, b, c, d, e, f, g))
