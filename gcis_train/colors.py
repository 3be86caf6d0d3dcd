"""Choose display colours of structures: conventional colours if they exist, otherwise well-separated hues."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence

Color = tuple[int, int, int]

_COLORS: dict[str, Color] = {
    "brainstem": (255, 176, 0),
    "spinal cord": (255, 230, 90),
    "right parotid gland": (0, 158, 115),
    "left parotid gland": (102, 205, 170),
    "esophagus": (200, 90, 60),
    "larynx": (86, 180, 233),
    "mandible": (204, 121, 167),
    "liver": (165, 60, 40),
    "spleen": (130, 60, 140),
    "pancreas": (240, 200, 120),
    "left kidney": (90, 160, 60),
    "right kidney": (60, 120, 40),
    "aorta": (220, 20, 40),
}
_ALIASES = {"oesophagus": "esophagus", "brain stem": "brainstem", "bladder": "urinary bladder"}
_TEMPLATE = re.compile(r"^a (?:computerized tomography|ct|photo) of (?:an? |the )?(.+?)\.?$")


def distinct_colors(prompts: Sequence[str]) -> tuple[Color, ...]:
    """Return distinct colours (red, green, blue in 0 to 255) for prompts, deterministically."""
    chosen: list[Color] = []
    for index, prompt in enumerate(prompts):
        color = _COLORS.get(structure_key(prompt))
        step = index
        while color is None or color in chosen:
            color = spread_color(step)
            step += len(prompts)
        chosen.append(color)
    return tuple(chosen)


def structure_key(prompt: str) -> str:
    """Return the lower-case name of the structure in a prompt, without the sentence around it."""
    text = " ".join(prompt.casefold().split())
    match = _TEMPLATE.match(text)
    bare = match.group(1) if match else text
    return _ALIASES.get(bare, bare)


def spread_color(step: int) -> Color:
    """Return the colour number `step` of a sequence with golden-ratio hues and three alternating shades."""
    hue = (0.58 + 0.618034 * step) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.75, 0.55, 0.95)[step % 3], (0.95, 0.85, 0.65)[step % 3])
    return round(255 * red), round(255 * green), round(255 * blue)
