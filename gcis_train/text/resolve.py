"""Resolve prompts in words to the trained prompts of a checkpoint, or to new prompts of the text tower."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from gcis_runtime.errors import AmbiguousPromptError, PromptError
from gcis_runtime.structures.match import match_prompt, names_structure, nearest_prompts
from gcis_train.text.prompts import embeddings_of
from gcis_train.weights.checkpoint import Checkpoint
from gcis_train.weights.prompt_errors import unknown_prompt


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Options for prompts that a checkpoint has no embedding of.

    Attributes:
        clip_weights: Weights of the text tower: a tag, a file or `"random"`; None refuses such prompts.
        any_clip: Accept a text tower other than that of the checkpoint.
        untrained: Accept prompts that the network was not trained with.
    """

    clip_weights: str | None = None
    any_clip: bool = False
    untrained: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedPrompt:
    """A prompt of a routed checkpoint.

    Attributes:
        asked: The prompt as it was given.
        prompt: The trained prompt that it denotes, or the given prompt itself.
        embedding: (text_dim,) text embedding of `prompt`.
        trained: Whether the prompt table has the prompt; None if the checkpoint has no prompt table, so that
            the trained prompts are unknown.
    """

    asked: str
    prompt: str
    embedding: Tensor
    trained: bool | None


def trained_name(prompt: str, known: Sequence[str]) -> str | None:
    """Return the known prompt that a prompt or an alias of it denotes; None if there is none.

    Raises:
        AmbiguousPromptError: Several known prompts match.
    """
    if prompt in known:
        return prompt
    index = match_prompt(prompt, [(name,) for name in known])
    return None if index is None else known[index]


def unambiguous_name(prompt: str, known: Sequence[str]) -> str | None:
    """Return the known prompt that a prompt denotes; None if there is none, or several.

    A prompt that is to be trained may lack the side of known prompts, because it then names both sides.
    """
    try:
        return trained_name(prompt, known)
    except AmbiguousPromptError:
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptName:
    """The prompt that a name denotes, and whether the network was trained with it; see `ResolvedPrompt`."""

    prompt: str
    trained: bool | None


def resolve_names(found: Checkpoint, prompts: Sequence[str], options: TextOptions) -> dict[str, PromptName]:
    """Return the prompt that each name denotes: a trained one by name or alias, otherwise the name itself.

    If the checkpoint does not list its prompts, as imported weights, a name is accepted if the tables of
    structures have it.

    Raises:
        PromptError: A name is unknown and `untrained` is false, or ambiguous.
    """
    names = _names(found, prompts)
    for prompt, name in names.items():
        if name.trained is False and not options.untrained:
            raise _untrained(prompt, found.trained_prompts)
    return names


def _names(found: Checkpoint, prompts: Sequence[str]) -> dict[str, PromptName]:
    known = found.trained_prompts
    listed = any(entry.embedding for entry in found.config.prompts)
    names = {}
    for prompt in prompts:
        name = trained_name(prompt, known)
        trained = None if not listed and names_structure(prompt) else name is not None
        names[prompt] = PromptName(prompt=prompt if name is None else name, trained=trained)
    return names


def resolve_prompts(
    found: Checkpoint, prompts: Sequence[str], options: TextOptions
) -> tuple[ResolvedPrompt, ...]:
    """Resolve prompts by name, by alias, and only then by the text tower.

    Args:
        found: A routed checkpoint.
        prompts: Prompts, or aliases, translations and SNOMED CT codes of trained ones.
        options: What to do with prompts that the checkpoint does not have.

    Raises:
        PromptError: A prompt is empty, unknown, ambiguous, or was not trained and `untrained` is false.
        CheckpointError: The text tower is not available, or not that of the checkpoint.
    """
    known, names = found.trained_prompts, _names(found, prompts)
    for prompt, name in names.items():
        if name.trained is False and known and options.clip_weights is None and prompt not in found.prompts:
            raise unknown_prompt(prompt, known)
        if name.trained is False and prompt.strip() and not options.untrained:
            raise _untrained(prompt, known)
    embeddings = embeddings_of(
        found,
        list(dict.fromkeys(name.prompt for name in names.values())),
        clip_weights=options.clip_weights,
        any_clip=options.any_clip,
    )
    return tuple(
        ResolvedPrompt(
            asked=asked,
            prompt=names[asked].prompt,
            embedding=embeddings[names[asked].prompt],
            trained=names[asked].trained,
        )
        for asked in prompts
    )


def remarks(resolved: Sequence[ResolvedPrompt]) -> tuple[str, ...]:
    """Return remarks on prompts that are aliases, were not trained, or may not have been trained."""
    return (
        *name_remarks(
            aliases=[(r.asked, r.prompt) for r in resolved if r.asked != r.prompt],
            untrained=[r.prompt for r in resolved if r.trained is False],
        ),
        *doubts(resolved),
    )


def name_remarks(*, aliases: Sequence[tuple[str, str]], untrained: Sequence[str]) -> tuple[str, ...]:
    """Return a remark per alias, given with its trained prompt, and per prompt that was not trained."""
    return (
        *(f"{asked!r} is the trained prompt {prompt!r}" for asked, prompt in aliases),
        *(f"the network was not trained with the prompt {prompt!r}" for prompt in untrained),
    )


def doubts(resolved: Sequence[ResolvedPrompt]) -> tuple[str, ...]:
    """Return a remark on prompts of a checkpoint that does not list its trained prompts."""
    names = ", ".join(repr(r.prompt) for r in resolved if r.trained is None)
    return (
        (f"the checkpoint does not list its trained prompts: {names} may not be among them",) if names else ()
    )


def _untrained(prompt: str, known: Sequence[str]) -> PromptError:
    """Return the error for a prompt that the network was not trained with, as far as is known."""
    near = nearest_prompts(prompt, known)
    hint = f" Nearest: {', '.join(map(repr, near))}." if near else ""
    if known:
        return PromptError(
            "the network was not trained with this prompt",
            received=repr(prompt),
            expected="one of " + ", ".join(map(repr, known)),
            fix=f"Choose one of these, or export the new prompt with --untrained.{hint}",
        )
    return PromptError(
        "this prompt is no structure that is known, and the checkpoint does not list its trained prompts",
        received=repr(prompt),
        expected="the wording of the training",
        fix="If the network was trained with it, or for a new prompt, pass --untrained.",
    )
