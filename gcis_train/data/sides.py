"""Exchange left and right in prompts, since a mirrored window shows the mirrored structure."""

from __future__ import annotations

import re

_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
"""Whole words, including `kidney_left`."""
_OTHER = {"left": "right", "right": "left"}
_UNPAIRED = re.compile(r"(?<![a-z])(heart|cardiac|atrial|atrium)(?![a-z])", re.IGNORECASE)
"""The left and right chambers of the heart differ in shape; they are not mirror images."""


def mirrored(prompt: str) -> str:
    """Return the prompt with left and right exchanged and capitals kept; unchanged without a side.

    The chambers of the heart do not count as having a side.
    """

    def swap(match: re.Match[str]) -> str:
        word = match.group(0)
        other = _OTHER[word.lower()]
        if word.isupper():
            return other.upper()
        return other.capitalize() if word[0].isupper() else other

    return prompt if _UNPAIRED.search(prompt) else _SIDE.sub(swap, prompt)


def other_side(prompt: str) -> str | None:
    """Return the prompt of the structure on the other side of the body; None without a side."""
    other = mirrored(prompt)
    return None if other == prompt else other


def without_side(prompt: str) -> str:
    """Return the prompt without left and right; unchanged without a side."""
    if other_side(prompt) is None:
        return prompt
    return " ".join(_SIDE.sub("", prompt).split())
