"""Left and right in prompts: a mirrored window shows the mirrored structure."""

from __future__ import annotations

import re

_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
"""Whole words; `kidney_left` has a side too."""
_OTHER = {"left": "right", "right": "left"}


def mirrored(prompt: str) -> str:
    """Return the prompt with left and right exchanged, its capitals kept; unchanged without a side."""

    def swap(match: re.Match[str]) -> str:
        word = match.group(0)
        other = _OTHER[word.lower()]
        if word.isupper():
            return other.upper()
        return other.capitalize() if word[0].isupper() else other

    return _SIDE.sub(swap, prompt)
