"""How a structure is labelled: value, name, colour and, where it is certain, a SNOMED CT code."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence

from gcis_runtime.errors import PromptError
from gcis_runtime.manifest import Label

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
_SNOMED: dict[str, str] = {
    "brainstem": "15926001",
    "spinal cord": "2748008",
    "esophagus": "32849002",
    "larynx": "4596009",
    "mandible": "91609006",
    "liver": "10200004",
    "spleen": "78961009",
    "pancreas": "15776009",
    "left kidney": "18639004",
    "right kidney": "9846003",
    "stomach": "69695003",
    "gallbladder": "28231008",
    "duodenum": "38848004",
    "aorta": "15825003",
    "inferior vena cava": "64131007",
    "urinary bladder": "89837001",
    "prostate": "41216001",
    "brain": "12738006",
    "heart": "80891009",
    "trachea": "44567001",
    "left lung": "44029006",
    "right lung": "3341006",
}
_ALIASES = {"oesophagus": "esophagus", "brain stem": "brainstem", "bladder": "urinary bladder"}
_TEMPLATE = re.compile(r"^a (?:computerized tomography|ct|photo) of (?:an? |the )?(.+?)\.?$")


def make_labels(prompts: Sequence[str], values: Sequence[int] = ()) -> tuple[Label, ...]:
    """Return the manifest's labels of prompts, in order.

    Args:
        prompts: The prompts.
        values: Values in the label map; none means 1, 2, 3, …

    Raises:
        PromptError: Another number of values than prompts, a repeated value, or one outside 1 to 65535.
    """
    numbers = tuple(values) or tuple(range(1, len(prompts) + 1))
    good = len(set(numbers)) == len(numbers) == len(prompts) and all(1 <= n <= 65535 for n in numbers)
    if not good:
        raise PromptError(
            "the label values cannot be used",
            received=", ".join(map(str, numbers)),
            expected=f"{len(prompts)} distinct whole numbers from 1 to 65535",
            fix="Give --label-value once for each prompt, or not at all.",
        )
    labels: list[Label] = []
    taken: set[Color] = set()
    for index, (prompt, value) in enumerate(zip(prompts, numbers, strict=True)):
        key = structure_key(prompt)
        color = _COLORS.get(key)
        step = index
        while color is None or color in taken:
            color = _spread_color(step)
            step += len(prompts)
        taken.add(color)
        codes = {"SCT": _SNOMED[key]} if key in _SNOMED else {}
        labels.append(Label(value=value, name=prompt, prompt=prompt, color=color, codes=codes))
    return tuple(labels)


def structure_key(prompt: str) -> str:
    """Return the bare structure that a prompt names, in lower case: its sentence around it removed."""
    text = " ".join(prompt.casefold().split())
    match = _TEMPLATE.match(text)
    bare = match.group(1) if match else text
    return _ALIASES.get(bare, bare)


def _spread_color(step: int) -> Color:
    """Return colours far from one another: hues by the golden ratio, three shades in turn."""
    hue = (0.58 + 0.618034 * step) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.75, 0.55, 0.95)[step % 3], (0.95, 0.85, 0.65)[step % 3])
    return round(255 * red), round(255 * green), round(255 * blue)
