"""Choose the prompt, the pathway and the prompt table of a fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from gcis_runtime.errors import DataError, PromptError
from gcis_train.data.datalist import read_datalist
from gcis_train.nets.pathway import Pathway
from gcis_train.text.prompts import embeddings_of
from gcis_train.text.resolve import unambiguous_name
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import Checkpoint, PromptEntry
from gcis_train.weights.prompt_errors import unknown_prompt


def choose_pathway(
    found: Checkpoint,
    prompt: str,
    *,
    path_selection: str | None,
    clip_weights: str | None,
    any_clip: bool = False,
) -> tuple[Pathway, PromptEntry, tuple[str, ...]]:
    """Return the pathway that a single task trains, the prompt table entry of the task, and remarks.

    A static network with one pathway can be trained for any prompt; one with several, for its own prompts.

    Args:
        found: Checkpoint to start from.
        prompt: The structure.
        path_selection: Pathway counted from 1; None lets the routers choose.
        clip_weights: Text weights for a prompt that the checkpoint does not have.
        any_clip: Accept a text tower other than that of the checkpoint.

    Raises:
        PromptError: The prompt is empty or cannot be routed, or the path selection cannot be used.
    """
    if not prompt.strip():
        raise PromptError("the prompt is empty", received=repr(prompt), fix="Pass the name of a structure.")
    stored = {entry.prompt: entry for entry in found.config.prompts}
    entry = stored.get(prompt, PromptEntry(prompt=prompt))
    if found.config.kind == "static":
        if path_selection is not None:
            raise PromptError(
                f"{found.folder.name} is a static checkpoint: its pathways are fixed",
                received=f"--path-selection {path_selection}",
                fix="Omit --path-selection.",
            )
        fixed = [Pathway(tuple(n - 1 for n in one_based)) for one_based in found.config.path_selections]
        if len(fixed) == 1:
            return fixed[0], entry, ()
        name = unambiguous_name(prompt, found.prompts)
        if name is None:
            raise unknown_prompt(prompt, found.prompts)
        return fixed[found.prompts.index(name)], entry, ()
    if path_selection is not None:
        return Pathway.parse(path_selection, pathways=found.config.network.pathways), entry, ()
    embeddings, notes = routing_embeddings(found, [prompt], clip_weights=clip_weights, any_clip=any_clip)
    (entry,) = checkpoint.prompt_table([prompt], embeddings[prompt][None])
    return found.routed().resolve(embeddings[prompt]), entry, notes


def routing_embeddings(
    found: Checkpoint, prompts: Sequence[str], *, clip_weights: str | None, any_clip: bool = False
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the embedding that routes each prompt, and remarks.

    An alias of a trained prompt is routed like that prompt. Other prompts are embedded by the text tower.
    These include names without the side of two trained prompts: the training defines what they mean.

    Args:
        found: A routed checkpoint.
        prompts: Prompts of the datalist.
        clip_weights: Text weights for prompts that the checkpoint does not have.
        any_clip: Accept a text tower other than that of the checkpoint.

    Raises:
        PromptError, CheckpointError: See `embeddings_of`.
    """
    names = {prompt: unambiguous_name(prompt, found.trained_prompts) for prompt in prompts}
    wanted = {prompt: name or prompt for prompt, name in names.items()}
    embeddings = embeddings_of(
        found, list(dict.fromkeys(wanted.values())), clip_weights=clip_weights, any_clip=any_clip
    )
    notes = [
        f"{prompt!r} is routed like the trained prompt {name!r}"
        for prompt, name in names.items()
        if name is not None and name != prompt
    ]
    notes += [
        f"the network was not trained with {prompt!r} before: the routers select a pathway by its wording"
        for prompt, name in names.items()
        if name is None
    ]
    return {prompt: embeddings[name] for prompt, name in wanted.items()}, tuple(notes)


def only_prompt(datalist: Path) -> str:
    """Return the prompt of a datalist whose training rows all have the same one.

    Raises:
        DataError: The datalist is invalid, or its training rows have several prompts or none.
    """
    prompts = list(dict.fromkeys(row.prompt for row in read_datalist(datalist).training))
    if len(prompts) != 1:
        raise DataError(
            f"{datalist} has several structures to train" if prompts else f"{datalist} has no training rows",
            received=", ".join(repr(p) for p in prompts) or "no prompt",
            expected="one",
            fix="Choose one with --prompt." if prompts else 'Add rows under "training".',
        )
    return prompts[0]


def extended_table(found: Checkpoint, embeddings: dict[str, Tensor]) -> tuple[PromptEntry, ...]:
    """Return the prompt table of a checkpoint with new prompts appended.

    Args:
        found: The checkpoint.
        embeddings: (text_dim,) embedding of each prompt; those that the table already has are not replaced.
    """
    known = {entry.prompt for entry in found.config.prompts if entry.embedding}
    new = [prompt for prompt in embeddings if prompt not in known]
    kept = tuple(entry for entry in found.config.prompts if entry.prompt not in new)
    return kept + (checkpoint.prompt_table(new, torch.stack([embeddings[p] for p in new])) if new else ())
