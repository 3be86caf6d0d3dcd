"""Define the post-processing rules of a structure, and read and format them as text."""

from __future__ import annotations

import msgspec

from gcis_runtime.errors import BundleError

MOST_ML = 100_000.0
"""Largest minimum volume in mL, about the volume of a body: a larger one is a mistake."""
_EXPECTED = "'largest', 'min:V' with V in mL, and 'fill', separated by commas, such as 'largest,fill,min:0.5'"


class PostRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rules that clean one structure of a finished label map. `pipeline.post` applies them.

    The order is fixed: `largest`, `min_ml`, `fill`. Components are connected by faces, edges and corners (26
    neighbours), holes by faces (6 neighbours). Rules that are not set are omitted from files.

    Attributes:
        largest: Keep only the largest component; of equal ones, the first in the order of the file.
        min_ml: Remove components of a smaller volume, in mL; 0 removes none.
        fill: Add background that the structure encloses in three dimensions. Background that reaches the
            border of the image is not enclosed, and other structures are never overwritten.
    """

    largest: bool = False
    min_ml: float = 0.0
    fill: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_ml <= MOST_ML:
            raise ValueError(f"minimum volume {self.min_ml} is not from 0 to {MOST_ML:g} mL")
        if not (self.removes or self.fill):
            raise ValueError("post-processing rules without a rule")

    @property
    def removes(self) -> bool:
        """Whether a rule removes components."""
        return self.largest or self.min_ml > 0

    @property
    def text(self) -> str:
        """The rules as `read_rules` reads them, in the order in which they are applied."""
        minimum = f"min:{self.min_ml:g}" if self.min_ml > 0 else ""
        parts = ("largest" if self.largest else "", minimum, "fill" if self.fill else "")
        return ",".join(part for part in parts if part)


def read_rules(text: str) -> PostRules:
    """Read rules such as `largest,fill,min:0.5`, in any order.

    Raises:
        BundleError: A rule is unknown or repeated, or its volume is not a positive number.
    """
    found: dict[str, bool | float] = {}
    for part in (part.strip() for part in text.split(",")):
        name, colon, volume = part.partition(":")
        field = {"largest": "largest", "fill": "fill", "min": "min_ml"}.get(name)
        if field is None or field in found or bool(colon) != (name == "min"):
            raise _refusal(text, part)
        try:
            found[field] = float(volume) if colon else True
        except ValueError:
            raise _refusal(text, part) from None
        if colon and not 0 < found[field] <= MOST_ML:
            raise _refusal(text, part)
    return msgspec.convert(found, PostRules)


def _refusal(text: str, part: str) -> BundleError:
    return BundleError(
        "the post-processing rules cannot be used",
        received=f"{part!r} in {text!r}",
        expected=_EXPECTED,
        fix=f"Use each rule at most once, and V above 0 and at most {MOST_ML:g}.",
    )
