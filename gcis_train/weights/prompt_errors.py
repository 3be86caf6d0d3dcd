"""Define the error for prompts without a stored text embedding."""

from __future__ import annotations

from gcis_runtime.errors import PromptError
from gcis_runtime.structures.match import nearest_prompts


def unknown_prompt(prompt: str, known: tuple[str, ...]) -> PromptError:
    """Return an error for a prompt without a stored embedding that lists the most similar known prompts."""
    near = nearest_prompts(prompt, known)
    listing = ", ".join(repr(p) for p in known) or "none"
    hint = f" Nearest: {', '.join(repr(p) for p in near)}." if near else ""
    return PromptError(
        "the checkpoint has no text embedding of this prompt",
        received=repr(prompt),
        expected=f"one of {listing}",
        fix="Choose one of these, pass the CLIP weights with --clip-weights, or the pathway with "
        f"--path-selection.{hint}",
    )
