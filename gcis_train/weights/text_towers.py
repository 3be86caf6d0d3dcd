"""Compare the text towers that computed the embeddings of two checkpoints or runs."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from gcis_train.weights.checkpoint import PromptEntry

_SAME_EMBEDDING = 1e-2
"""Tolerance relative to the norm: float32 differs by 1e-5 between machines, other weights by about 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTower:
    """A text tower as checkpoints record it.

    Attributes:
        model: open_clip model.
        weights: Record of its weights; `"unknown"` may be any.
        prompts: Prompts with the embeddings that it computed.
    """

    model: str
    weights: str
    prompts: tuple[PromptEntry, ...]

    def described(self) -> str:
        """Return weights and model as text."""
        return f"{self.weights} of {self.model}"


def same_tower(one: TextTower, other: TextTower) -> bool:
    """Return whether two towers give the same embeddings.

    The embeddings of a common prompt decide, because a file name does not identify the weights; without a
    common prompt, model and weights must have the same names.
    """
    theirs = {entry.prompt: entry.embedding for entry in other.prompts if entry.embedding}
    for entry in one.prompts:
        if entry.embedding and entry.prompt in theirs:
            return same_embedding(torch.tensor(entry.embedding), torch.tensor(theirs[entry.prompt]))
    return one.model == other.model and (
        one.weights == other.weights or "unknown" in {one.weights, other.weights}
    )


def same_embedding(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether two embeddings of a prompt come from the same text tower."""
    if ours.shape != theirs.shape:
        return False
    return float((ours - theirs).norm()) <= _SAME_EMBEDDING * float(ours.norm())
