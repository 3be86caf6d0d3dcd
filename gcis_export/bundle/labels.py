"""Make the labels of a bundle: value, name, colour and, for known structures, a SNOMED CT code."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gcis_runtime.bundles.manifest import Label
from gcis_runtime.bundles.post_rules import PostRules
from gcis_runtime.errors import PromptError
from gcis_runtime.structures.match import nearest_prompts, snomed_codes
from gcis_train.colors import distinct_colors, structure_key
from gcis_train.text.resolve import trained_name

_ONE_SIDE: dict[str, str] = {
    "left kidney": "18639004",
    "right kidney": "9846003",
    "left lung": "44029006",
    "right lung": "3341006",
}
"""Codes that include the side. For others the code is that of the structure, and the name has the side."""


def with_rules(labels: Sequence[Label], post: Sequence[tuple[str, PostRules | None]]) -> tuple[Label, ...]:
    """Return labels with their post-processing rules.

    Args:
        labels: The labels.
        post: Prompt or alias and rules of a structure; `"*"` for all structures that are not named.

    Raises:
        PromptError: A structure is unknown, ambiguous or named twice.
    """
    prompts = [label.prompt for label in labels]
    rules: dict[str, PostRules | None] = {}
    for asked, found in post:
        name = "*" if asked == "*" else trained_name(asked, prompts)
        if name is None:
            near = nearest_prompts(asked, prompts)
            raise PromptError(
                "post-processing rules name a structure that is not exported",
                received=repr(asked),
                expected=f"one of {', '.join(map(repr, prompts))}, or *",
                fix="Correct the name before '=' in --post."
                + (f" Nearest: {', '.join(map(repr, near))}." if near else ""),
            )
        if name in rules:
            raise PromptError(
                "a structure has two sets of post-processing rules",
                received=f"{asked!r} after rules for {name!r}",
                expected="each structure at most once",
                fix="Give all rules of a structure with one --post, such as 'mandible=largest,fill'.",
            )
        rules[name] = found
    chosen = [rules.get(prompt, rules.get("*")) for prompt in prompts]
    return tuple(
        label if each is None else msgspec.structs.replace(label, post=each)
        for label, each in zip(labels, chosen, strict=True)
    )


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
        code = _ONE_SIDE.get(structure_key(prompt)) or next(iter(snomed_codes(prompt)), "")
        codes = {"SCT": code} if code else {}
        labels.append(Label(value=value, name=prompt, prompt=prompt, color=color, codes=codes))
    return tuple(labels)
