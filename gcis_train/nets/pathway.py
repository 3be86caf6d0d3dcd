"""Define pathways: the residual block that a prompt uses at each of the seven decoder positions."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from gcis_runtime.bundles.manifest import POSITIONS
from gcis_runtime.errors import PromptError

Spread = Literal["last", "all"]
"""Positions at which the pathways of prompts differ: as few and as late as possible, or all seven."""


@dataclasses.dataclass(frozen=True)
class Pathway:
    """Chosen block at each of the seven decoder positions, counted from 0.

    User interfaces and files count from 1 (`2,1,3,5,3,6,6`); `parse`, `one_based` and `str` convert.

    Attributes:
        choices: Seven block indices, in the order of `POSITIONS`.
    """

    choices: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.choices) != len(POSITIONS) or min(self.choices) < 0:
            raise ValueError(f"a pathway has {len(POSITIONS)} indices of at least 0, not {self.choices}")

    @classmethod
    def parse(cls, text: str, *, pathways: int) -> Pathway:
        """Read `2,1,3,5,3,6,6` (counted from 1).

        Args:
            text: Seven comma-separated numbers.
            pathways: Number of blocks per position.

        Raises:
            PromptError: The text is not seven whole numbers between 1 and `pathways`.
        """
        try:
            numbers = tuple(int(part) for part in text.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != len(POSITIONS) or not all(1 <= n <= pathways for n in numbers):
            raise PromptError(
                "the path selection cannot be read",
                received=repr(text),
                expected=f"{len(POSITIONS)} numbers from 1 to {pathways}, such as '2,1,3,5,3,6,6'",
                fix=f"Pass one number for each of {', '.join(POSITIONS)}.",
            )
        return cls(tuple(n - 1 for n in numbers))

    @property
    def one_based(self) -> tuple[int, int, int, int, int, int, int]:
        """Choices counted from 1, as in user interfaces and files."""
        a, b, c, d, e, f, g = (choice + 1 for choice in self.choices)
        return a, b, c, d, e, f, g

    def __str__(self) -> str:
        return ",".join(str(n) for n in self.one_based)


def group_equal(pathways: dict[str, Pathway]) -> list[list[str]]:
    """Return the groups of prompts with identical pathways, and therefore identical masks."""
    groups: dict[Pathway, list[str]] = {}
    for prompt, pathway in pathways.items():
        groups.setdefault(pathway, []).append(prompt)
    return [prompts for prompts in groups.values() if len(prompts) > 1]


def spread(prompts: int, *, pathways: int) -> tuple[Pathway, ...]:
    """Return distinct pathways for a number of prompts that share as many decoder blocks as possible.

    Pathways differ at `out` first (a 1x1x1 convolution), then at `decoder1`, and so on towards the
    bottleneck: the choices of prompt `j` are the digits of `j` in base `pathways`, starting at the last
    position. Seven prompts on six pathways therefore use two blocks at `decoder1` and one at every earlier
    position. Groups at `decoder1` have equal size, so that no block serves a single prompt while another
    serves six.

    Args:
        prompts: Number of prompts.
        pathways: Number of blocks per position.

    Raises:
        PromptError: There are more prompts than distinct pathways.
    """
    if prompts > pathways ** len(POSITIONS):
        raise PromptError(
            "there are more prompts than distinct pathways",
            received=f"{prompts} prompts",
            expected=f"at most {pathways ** len(POSITIONS)} with {pathways} pathways",
            fix="Train fewer prompts, or raise --pathways.",
        )
    groups = max(-(-prompts // pathways), 1)
    size = -(-prompts // groups) if groups <= pathways else pathways
    result = []
    for index in range(prompts):
        group, member = divmod(index, size)
        # The offset by group distributes the groups over all output blocks.
        choices = [(member + group * size) % pathways]
        for _ in range(len(POSITIONS) - 1):
            group, digit = divmod(group, pathways)
            choices.append(digit)
        result.append(Pathway(tuple(reversed(choices))))
    return tuple(result)


def separate(given: Sequence[Pathway], *, pathways: int) -> tuple[Pathway, ...]:
    """Return pathways that differ at every position, as far as the number of blocks permits.

    At each position, prompts that had different blocks keep different blocks. A network whose new blocks are
    copies of the old blocks of their prompts therefore has the same outputs. Prompts that must share a block,
    because there are fewer blocks than prompts, share it with other prompts at the next position.

    Args:
        given: Pathway of each prompt.
        pathways: Number of blocks per position, larger than every index in `given`.
    """
    columns = []
    for position in range(len(POSITIONS)):
        groups: dict[int, list[int]] = {}
        for prompt, pathway in enumerate(given):
            groups.setdefault(pathway.choices[position], []).append(prompt)
        shares = dict.fromkeys(groups, 1)
        for _ in range(min(pathways, len(given)) - len(groups)):
            # The group with the most prompts per block receives the next block.
            crowded = max(groups, key=lambda g: (len(groups[g]) / shares[g], -g))
            shares[crowded] += 1
        column, first = [0] * len(given), 0
        for group, members in groups.items():
            for rank, prompt in enumerate(members):
                turned = (rank + 2 * position) % len(members)
                column[prompt] = first + turned % shares[group]
            first += shares[group]
        columns.append(column)
    return tuple(Pathway(choices) for choices in zip(*columns, strict=True))


def next_pathway(taken: Sequence[Pathway], *, pathways: int) -> Pathway:
    """Return the pathway of one more prompt, which differs from the others at the last two positions only.

    It takes the block at `decoder1` with the fewest prompts, then the block at `out` with the fewest prompts;
    at earlier positions, the blocks of the first prompt.

    Args:
        taken: Pathways of the other prompts; at least one.
        pathways: Number of blocks per position.

    Raises:
        PromptError: All pathways that differ at the last two positions are taken.
    """
    prefix = taken[0].choices[:-2]
    before, last = (Counter(pathway.choices[position] for pathway in taken) for position in (-2, -1))
    ranked = sorted(
        ((a, b) for a in range(pathways) for b in range(pathways)),
        key=lambda pair: (pair[0] not in before, before[pair[0]], last[pair[1]], pair),
    )
    free = [Pathway((*prefix, *pair)) for pair in ranked]
    chosen = next((pathway for pathway in free if pathway not in taken), None)
    if chosen is None:
        raise PromptError(
            "there is no pathway left for another prompt",
            received=f"{len(taken)} prompts",
            expected=f"fewer than {pathways**2} with {pathways} pathways",
            fix="Train fewer prompts, or raise --pathways.",
        )
    return chosen
