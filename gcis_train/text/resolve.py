"""Resolve prompts in words to the trained prompts of a checkpoint, or to new prompts of the text tower."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from gcis_runtime.errors import PromptError
from gcis_runtime.structures.match import match_prompt, nearest_prompts
from gcis_train.text.prompts import embeddings_of
from gcis_train.weights.checkpoint import Checkpoint, unknown_prompt


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
    known = tuple(entry.prompt for entry in found.config.prompts if entry.embedding)
    names = {prompt: trained_name(prompt, known) for prompt in prompts}
    new = [prompt for prompt, name in names.items() if name is None]
    if new and known and not options.untrained:
        if options.clip_weights is None:
            raise unknown_prompt(new[0], known)
        raise _untrained(new[0], known)
    wanted = {prompt: prompt if name is None else name for prompt, name in names.items()}
    embeddings = embeddings_of(
        found,
        list(dict.fromkeys(wanted.values())),
        clip_weights=options.clip_weights,
        any_clip=options.any_clip,
    )
    return tuple(
        ResolvedPrompt(
            asked=prompt,
            prompt=wanted[prompt],
            embedding=embeddings[wanted[prompt]],
            trained=None if not known else names[prompt] is not None,
        )
        for prompt in prompts
    )


def remarks(resolved: Sequence[ResolvedPrompt]) -> tuple[str, ...]:
    """Return remarks on prompts that are aliases or were not trained."""
    aliases = [f"{r.asked!r} is the trained prompt {r.prompt!r}" for r in resolved if r.asked != r.prompt]
    new = [
        f"the network was not trained with the prompt {r.prompt!r}" for r in resolved if r.trained is False
    ]
    return (*aliases, *new)


def _untrained(prompt: str, known: Sequence[str]) -> PromptError:
    near = nearest_prompts(prompt, known)
    hint = f" Nearest: {', '.join(map(repr, near))}." if near else ""
    return PromptError(
        "the network was not trained with this prompt",
        received=repr(prompt),
        expected="one of " + ", ".join(map(repr, known)),
        fix=f"Choose one of these, or route the new prompt with --untrained.{hint}",
    )
