"""Divide the images of a run into shards, which several processes or machines run at the same time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from gcis_runtime.errors import OutputError

_T = TypeVar("_T")
_TEXT = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several parts of a run.

    Attributes:
        number: Number of the part, from 1.
        count: Number of parts.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that `I/N` names, such as `2/8`.

        Raises:
            OutputError: The text is not `I/N`, or I is larger than N.
        """
        found = _TEXT.fullmatch(text)
        if found is None or int(found[1]) > int(found[2]):
            raise OutputError(
                "not a shard",
                received=repr(text),
                expected="I/N with I from 1 to N, such as 2/8",
                fix="Start N runs with the same images and the same -o, each with its own I.",
            )
        return cls(number=int(found[1]), count=int(found[2]))

    def of(self, items: Sequence[_T]) -> list[_T]:
        """Return this shard's items: every N-th of the list, so that shards differ by one item at most.

        The choice depends on the order of the list alone. It is the same in every process and after an
        interruption.
        """
        return list(items[self.number - 1 :: self.count])

    @property
    def suffix(self) -> str:
        """Part of file names that belong to this shard."""
        return f"shard-{self.number}-of-{self.count}"

    @property
    def text(self) -> str:
        """The shard as it is written on the command line."""
        return f"{self.number}/{self.count}"
