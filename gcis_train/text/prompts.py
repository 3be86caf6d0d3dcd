"""Read the text embeddings of prompts from a run folder or a checkpoint, or compute them with CLIP."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from gcis_runtime.errors import CheckpointError, OutputError, PromptError
from gcis_runtime.system.atomic_files import replacing
from gcis_runtime.system.json_files import decode_json
from gcis_train.text.tower import RANDOM, TextEncoder, described, published_sha256
from gcis_train.weights.checkpoint import Checkpoint, PromptEntry, hash_file, prompt_table
from gcis_train.weights.prompt_errors import unknown_prompt
from gcis_train.weights.text_towers import same_embedding

PROMPTS_FILE = "prompts.json"


class PromptTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Embeddings of the prompts of a run, and the text tower that computed them."""

    text_model: str
    text_weights: str
    prompts: tuple[PromptEntry, ...]

    def tensor(self) -> Tensor:
        """Return the embeddings as a (P, text_dim) float32 tensor."""
        return torch.tensor([entry.embedding for entry in self.prompts], dtype=torch.float32)


def embed_prompts(
    prompts: Sequence[str], *, model: str, weights: str, seed: int, known: PromptTable | None = None
) -> PromptTable:
    """Return the embeddings of the prompts of a run.

    Args:
        prompts: Distinct prompts.
        model: open_clip model.
        weights: Tag, file or `"random"`.
        seed: Seed of random weights.
        known: Embeddings that the run computed earlier; if it has all prompts, the text tower is not loaded.

    Raises:
        PromptError: The text tower cannot read a prompt.
        CheckpointError: The text weights are not available, or differ from those of `known`.
    """
    wanted = (model, described(weights, seed=seed))
    if known is not None and (known.text_model, known.text_weights) != wanted:
        raise CheckpointError(
            "the run was started with a different text tower",
            received=f"{wanted[1]} of {wanted[0]}",
            expected=f"{known.text_weights} of {known.text_model}",
            fix="Resume with the same --clip-weights, or start a new run.",
        )
    entries = {entry.prompt: entry for entry in known.prompts} if known else {}
    new = [p for p in prompts if p not in entries]
    if new:
        embeddings = TextEncoder(model, weights, seed=seed).embed(new)
        entries |= {entry.prompt: entry for entry in prompt_table(new, embeddings)}
    return PromptTable(
        text_model=wanted[0], text_weights=wanted[1], prompts=tuple(entries[p] for p in prompts)
    )


def read_table(run_dir: Path) -> PromptTable | None:
    """Return the embeddings stored in a run folder, or None.

    Raises:
        CheckpointError: The file cannot be read.
    """
    file = run_dir / PROMPTS_FILE
    try:
        return decode_json(file.read_bytes(), PromptTable)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{file} cannot be read",
            received=str(error),
            fix="Remove the file; the embeddings are computed again.",
        ) from error


def write_table(run_dir: Path, table: PromptTable) -> None:
    """Write the embeddings into a run folder atomically.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    try:
        with replacing(run_dir / PROMPTS_FILE) as temporary:
            temporary.write_bytes(msgspec.json.encode(table))
    except OutputError as error:
        raise CheckpointError(
            f"{run_dir} cannot be written",
            received=error.received,
            fix="Free space or choose another --run-dir.",
        ) from error


def embeddings_of(
    found: Checkpoint, prompts: Sequence[str], *, clip_weights: str | None, any_clip: bool = False
) -> dict[str, Tensor]:
    """Return the (text_dim,) embedding of each prompt for a checkpoint.

    Args:
        found: The checkpoint; prompts of its table do not need the text tower.
        prompts: Prompts to embed.
        clip_weights: Weights of the text tower for prompts outside the table: a tag, a file or `"random"`.
        any_clip: Accept a text tower other than that of the checkpoint.

    Raises:
        PromptError: There is no prompt, one is unknown and `clip_weights` is None, or CLIP cannot read one.
        CheckpointError: The text tower differs from that of the checkpoint.
    """
    if not prompts:
        raise PromptError(
            f"{found.folder} has no prompts",
            expected="a prompt table, or a prompt with CLIP weights",
            fix="Pass --prompt and --clip-weights.",
        )
    known = {e.prompt for e in found.config.prompts if e.embedding}
    new = [p for p in dict.fromkeys(prompts) if p not in known]
    if blank := [p for p in new if not p.strip()]:
        raise PromptError("a prompt is empty", received=repr(blank[0]), fix="Pass the name of a structure.")
    if new and clip_weights is None:
        raise unknown_prompt(new[0], tuple(sorted(known)))
    fresh = {}
    if new and clip_weights:
        fresh = dict(zip(new, _embed(found, new, clip_weights, any_clip=any_clip), strict=True))
    return {p: fresh[p] if p in fresh else found.embedding(p) for p in prompts}


def _embed(found: Checkpoint, prompts: Sequence[str], clip_weights: str, *, any_clip: bool) -> Tensor:
    """Return embeddings of new prompts, computed with the text tower that the checkpoint was trained with."""
    config, expected = found.config, found.text_weights
    seed = re.fullmatch(r"random \(seed (\d+)\)", expected)
    encoder = TextEncoder(config.text_model, clip_weights, seed=int(seed[1]) if seed else 0)
    fix = f"Pass --clip-weights {RANDOM if seed else expected} for {config.text_model}."
    if encoder.dim != config.network.text_dim:
        raise CheckpointError(
            "the text tower does not fit the router",
            received=f"embeddings of {encoder.dim} numbers",
            expected=f"{config.network.text_dim}",
            fix=fix,
        )
    probe = next((entry for entry in config.prompts if entry.embedding), None)
    if any_clip:
        same = True
    elif probe is None:
        same = expected == "unknown" or _is_published(clip_weights, expected, encoder)
    else:  # file names are arbitrary: compare the embedding of a known prompt
        same = same_embedding(torch.tensor(probe.embedding), encoder.embed([probe.prompt])[0])
    if not same:
        raise CheckpointError(
            "the CLIP weights are not those that the checkpoint was trained with",
            received=f"{encoder.weights} of {config.text_model}",
            expected=f"{expected} of {config.text_model}",
            fix=f"{fix} The routers cannot use embeddings of another text tower; if a file contains the same "
            "weights but is not the published one (compared by SHA-256), pass --any-clip.",
        )
    return encoder.embed(prompts)


def _is_published(weights: str, tag: str, encoder: TextEncoder) -> bool:
    """Return whether weights are those of a tag: the tag itself, or its published file.

    The SHA-256 identifies a file whose tag open_clip publishes with the beginning of the hash, and a file
    with such a beginning in its name; any other file is identified by its name.
    """
    file = Path(weights)
    if not file.is_file():
        return encoder.weights == tag
    named = file.name == tag or tag in re.split(r"[-.]", file.name)
    if known := published_sha256(encoder.model, tag):
        return hash_file(file).startswith(known)
    suffix = re.search(r"-([0-9a-f]{8,64})\.\w+$", file.name)
    return named and (suffix is None or hash_file(file).startswith(suffix[1]))
