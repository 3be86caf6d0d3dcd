"""Make the labels of a bundle: value, name, colour and, for known structures, a SNOMED CT code."""

from __future__ import annotations

from collections.abc import Sequence

from gcis_runtime.bundles.manifest import Label
from gcis_runtime.errors import PromptError
from gcis_train.colors import distinct_colors, structure_key

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


def make_labels(prompts: Sequence[str], values: Sequence[int] = ()) -> tuple[Label, ...]:
    """Return the manifest labels of the prompts, in the same order.

    Args:
        prompts: The prompts.
        values: Label map values, one per prompt; empty means 1, 2, 3, …

    Raises:
        PromptError: There is not one value per prompt, or a value is repeated or outside 1 to 65535.
    """
    numbers = tuple(values) or tuple(range(1, len(prompts) + 1))
    valid = len(set(numbers)) == len(numbers) == len(prompts) and all(1 <= n <= 65535 for n in numbers)
    if not valid:
        raise PromptError(
            "the label values cannot be used",
            received=", ".join(map(str, numbers)),
            expected=f"{len(prompts)} distinct integers from 1 to 65535",
            fix="Give --label-value once per prompt, or omit it.",
        )
    labels: list[Label] = []
    for prompt, value, color in zip(prompts, numbers, distinct_colors(prompts), strict=True):
        key = structure_key(prompt)
        codes = {"SCT": _SNOMED[key]} if key in _SNOMED else {}
        labels.append(Label(value=value, name=prompt, prompt=prompt, color=color, codes=codes))
    return tuple(labels)
