"""Resolve prompts to pathways and a static network: by the router, by hand, or from a static checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gcis_runtime.errors import PromptError
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway, group_equal
from gcis_train.routing.decisions import route
from gcis_train.text.resolve import (
    ResolvedPrompt,
    TextOptions,
    doubts,
    name_remarks,
    resolve_names,
    resolve_prompts,
    trained_name,
)
from gcis_train.text.tower import described
from gcis_train.weights.checkpoint import Checkpoint
from gcis_train.weights.prompt_errors import unknown_prompt

UNTRAINED_GAP = 0.05
"""Smallest gap of the seven routers below which a prompt counts as untrained if the checkpoint does not list
its prompts. After a warm start, trained prompts have 9.0; in new routers half of all prompts have less than
0.046."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One prompt and its pathway.

    Attributes:
        prompt: The prompt.
        pathway: Selected block at each position.
        router_gaps: Router logit of the selected block minus that of the runner-up, at each position; None if
            no router selected the pathway.
        asked: Prompt as it was given, which may be an alias of `prompt`; empty if it is `prompt`.
        untrained: Whether the network was not trained with the prompt.
    """

    prompt: str
    pathway: Pathway
    router_gaps: tuple[float, float, float, float, float, float, float] | None = None
    asked: str = ""
    untrained: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Resolution:
    """Prompts in channel order, and the static network that segments them.

    Attributes:
        choices: One choice per output channel.
        network: The static network, in evaluation mode.
        routed: Routed network that the static one was resolved from; None for a static checkpoint.
        notes: Remarks on aliases, untrained prompts and text weights.
    """

    choices: tuple[Choice, ...]
    network: StaticGcisNet
    routed: GcisNet | None
    notes: tuple[str, ...] = ()

    @property
    def coinciding(self) -> list[list[str]]:
        """Groups of prompts with equal pathways, whose masks are therefore equal."""
        return group_equal({choice.prompt: choice.pathway for choice in self.choices})


def resolve(
    checkpoint: Checkpoint,
    prompts: Sequence[str] = (),
    *,
    path_selections: Sequence[str] = (),
    text: TextOptions | None = None,
) -> Resolution:
    """Resolve each prompt to a pathway and extract the static network from the checkpoint.

    Args:
        checkpoint: A routed or static checkpoint.
        prompts: Prompts, or aliases of trained ones, in channel order; empty means all prompts of the
            checkpoint.
        path_selections: Pathways selected by hand, counted from 1, one per prompt (`"2,1,3,5,3,6,6"`).
        text: What to do with prompts that the checkpoint has no embedding of; by default they are an error.

    Raises:
        PromptError: A prompt is unknown, ambiguous, repeated or missing, was not trained, or a path selection
            is invalid.
        CheckpointError: The CLIP weights differ from those of the checkpoint, or the checkpoint is damaged.
    """
    wanted = tuple(prompts) or checkpoint.prompts
    _check_names(wanted, path_selections)
    if checkpoint.config.kind == "static":
        choices = _fixed(checkpoint, wanted, by_name=bool(prompts), path_selections=path_selections)
        network = _cut(checkpoint, choices)
        return Resolution(choices=choices, network=network, routed=None, notes=_notes(choices))
    net, text = checkpoint.routed(), text or TextOptions()
    resolved: tuple[ResolvedPrompt, ...] = ()
    if path_selections:
        choices = _by_hand(checkpoint, wanted, path_selections, text)
    else:
        resolved = resolve_prompts(checkpoint, wanted, text)
        choices = tuple(_route(net, entry, text) for entry in resolved)
    _check_names([choice.prompt for choice in choices], ())
    network = StaticGcisNet.resolved(net, [choice.pathway for choice in choices]).eval()
    notes = (*_notes(choices), *doubts(resolved))
    if text.any_clip and text.clip_weights is not None:
        given = described(text.clip_weights, seed=0)
        notes += (f"new prompts may use {given} instead of the text weights {checkpoint.text_weights}",)
    return Resolution(choices=choices, network=network, routed=net, notes=notes)


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
    choices = []
    for asked in prompts:
        name = trained_name(asked, known) if by_name else asked
        if name is None:
            raise unknown_prompt(asked, known)
        alias = "" if name == asked else asked
        choices.append(Choice(prompt=name, pathway=fixed[known.index(name)], asked=alias))
    _check_names([choice.prompt for choice in choices], ())
    return tuple(choices)


def _cut(checkpoint: Checkpoint, choices: Sequence[Choice]) -> StaticGcisNet:
    """Return a static network with only the blocks that the choices use."""
    return StaticGcisNet.resolved(checkpoint.static(), [choice.pathway for choice in choices]).eval()


def _by_hand(
    checkpoint: Checkpoint, prompts: Sequence[str], path_selections: Sequence[str], text: TextOptions
) -> tuple[Choice, ...]:
    """Return pathways that were selected by hand, one per prompt.

    A checkpoint that lists its prompts knows whether the network was trained with a prompt; otherwise the
    prompt is a name only.

    Raises:
        PromptError: A prompt was not trained and such prompts are not accepted, or a selection is invalid.
    """
    names = resolve_names(checkpoint, prompts, text) if checkpoint.trained_prompts else {}
    pathways = checkpoint.config.network.pathways
    choices = []
    for asked, selection in zip(prompts, path_selections, strict=True):
        name = names[asked].prompt if names else asked
        choices.append(
            Choice(
                prompt=name,
                pathway=Pathway.parse(selection, pathways=pathways),
                asked="" if name == asked else asked,
                untrained=bool(names) and names[asked].trained is False,
            )
        )
    return tuple(choices)


def _route(net: GcisNet, resolved: ResolvedPrompt, text: TextOptions) -> Choice:
    """Return the pathway that the router selects, with the router gaps.

    Raises:
        PromptError: The checkpoint does not list its trained prompts, the router gap is that of a prompt that
            was never trained, and such prompts are not accepted.
    """
    routing = route(net, resolved.prompt, resolved.embedding)
    gap = min(routing.router_gaps)
    doubtful = resolved.trained is None and gap < UNTRAINED_GAP
    if doubtful and not text.untrained:
        raise PromptError(
            "the routers do not know this prompt: the network was probably not trained with it",
            received=f"{resolved.prompt!r} with a smallest router gap of {gap:.3f}",
            expected=f"at least {UNTRAINED_GAP:g}",
            fix="Use the wording of the training, or export the prompt with --untrained.",
        )
    # With a single pathway per position there is no runner-up, and JSON has no infinity.
    a, b, c, d, e, f, g = (round(m, 4) if math.isfinite(m) else 0.0 for m in routing.router_gaps)
    return Choice(
        prompt=resolved.prompt,
        pathway=routing.pathway,
        router_gaps=(a, b, c, d, e, f, g),
        asked="" if resolved.asked == resolved.prompt else resolved.asked,
        untrained=doubtful or resolved.trained is False,
    )


def _notes(choices: Sequence[Choice]) -> tuple[str, ...]:
    """Return remarks on aliases and untrained prompts."""
    return name_remarks(
        aliases=[(c.asked, c.prompt) for c in choices if c.asked],
        untrained=[c.prompt for c in choices if c.untrained],
    )
