"""Embeddings of prompts for a checkpoint: from its table, or from the text tower it was trained with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gcis_runtime.errors import CheckpointError, PromptError
from gcis_train.checkpoint import Checkpoint, unknown_prompt
from gcis_train.text import RANDOM, TextEncoder


def embeddings_of(
    found: Checkpoint, prompts: Sequence[str], *, clip_weights: str | None
) -> dict[str, Tensor]:
    """Return the (text_dim,) embedding of each prompt.

    Args:
        found: The checkpoint; prompts of its table need no text tower.
        prompts: What is asked for.
        clip_weights: Weights tag or file of the text tower, for prompts outside the table.

    Raises:
        PromptError: No prompts, or an unknown one without `clip_weights`.
        CheckpointError: The text tower is another one than the checkpoint's.
    """
    if not prompts:
        raise PromptError(
            f"{found.folder} knows no prompts", fix="Name one with --prompt and give the CLIP weights."
        )
    known = {e.prompt for e in found.config.prompts if e.embedding}
    new = [p for p in prompts if p not in known]
    if new and clip_weights is None:
        raise unknown_prompt(new[0], tuple(sorted(known)))
    computed: dict[str, Tensor] = {}
    if new and clip_weights is not None:
        encoder = TextEncoder(found.config.text_model, clip_weights, seed=_seed(found))
        recorded = found.config.text_weights
        if recorded not in ("unknown", encoder.weights):
            raise CheckpointError(
                "the text weights are not those of the checkpoint",
                received=encoder.weights,
                expected=recorded,
                fix="An embedding of another text tower means nothing to this router.",
            )
        computed = dict(zip(new, encoder.embed(new), strict=True))
    return {p: found.embedding(p) if p in known else computed[p] for p in prompts}


def _seed(found: Checkpoint) -> int:
    """Return the seed of recorded random weights (`random (seed N)`), else 0."""
    text = found.config.text_weights
    return int(text.split("seed ")[1].rstrip(")")) if text.startswith(RANDOM) else 0
