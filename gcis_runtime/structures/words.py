"""Parse the name of a structure into its words, its side and its number."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

Side = Literal["", "left", "right"]

_SENTENCE = re.compile(
    r"^an? (?:computeri[sz]ed tomography|ct|photo) of (?:an? |the )?(.+?)\.?$", re.IGNORECASE
)
_SIDE_WORDS: dict[Side, str] = {
    "left": (
        "left l lt links linke linker linkes linken linksseitig li gauche izquierda izquierdo izq "
        "sinistra sinister sinistrum 7771000"
    ),
    "right": (
        "right r rt rechts rechte rechter rechtes rechten rechtsseitig re droit droite derecha derecho "
        "dextra dexter dextrum 24028007"
    ),
}
_BOTH_WORDS = "both bilateral pair beide beiden beider beidseits deux ambos ambas 51440002"
_IGNORED_WORDS = (
    "a an the of and der die das des den und le la les l du de d et el los las del y von structure"
)
_SIDES: dict[str, Side] = {word: side for side, words in _SIDE_WORDS.items() for word in words.split()}
_BOTH = frozenset(_BOTH_WORDS.split())
_IGNORED = frozenset(_IGNORED_WORDS.split())
_CODE_WORDS = frozenset(("sct", "snomed", "ct", "srt"))
_SPELLINGS = {
    "oesophagus": "esophagus", "oesophageal": "esophageal", "tumour": "tumor", "tumours": "tumor",
    "vertebrae": "vertebra", "arteria": "artery", "vena": "vein", "glandula": "gland", "glnd": "gland",
    "nrv": "nerve", "nervus": "nerve", "lig": "ligament",
}  # fmt: skip
_ELIDED = re.compile(r"\b[ld]['’ʼ´`]\s*(?=\w)", re.IGNORECASE)
"""French articles before a vowel: without this, `l'œil` would be the left eye."""
_NUMBER = re.compile(r"^(?:[ctls]?)\d{1,2}$")
_SINGULAR_ENDS = ("ss", "us", "is")


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of a name.

    Attributes:
        words: Normalised words in their order, without side, number and articles.
        side: Side of the body; empty if the name has none, or both.
        number: Number of a rib or vertebra, such as `4` or `l1`; empty if there is none.
    """

    words: tuple[str, ...]
    side: Side = ""
    number: str = ""

    @property
    def key(self) -> str:
        """The words in alphabetical order, so that `cavity oral` and `oral cavity` are equal."""
        return " ".join(sorted(self.words))

    @property
    def joined(self) -> str:
        """The words without spaces, so that `spinal cord` and `spinalcord` are equal."""
        return "".join(self.words)


def parse_words(text: str) -> Words:
    """Parse a name: `Parotid_L`, `rib_left_4`, `Linke Niere`, `SCT 64033007 left`.

    Case, accents, separators, articles, the English plural and British spellings do not matter. Capitals
    within a word separate words (`SpinalCord`).
    """
    sentence = _SENTENCE.match(" ".join(text.split()))
    plain = _ascii(_ELIDED.sub("", sentence.group(1) if sentence else text))
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)
    plain = re.sub(r"(?<=[A-Za-z]{3})(?=\d)", " ", plain)
    tokens = re.findall(r"[a-z0-9]+", plain.casefold())
    if any(len(t) > 4 and t.isdigit() for t in tokens):
        tokens = [t for t in tokens if t not in _CODE_WORDS]
    both = any(t in _BOTH for t in tokens)
    sides = {_SIDES[t] for t in tokens if t in _SIDES}
    numbers = [_number(t) for t in tokens if _NUMBER.match(t)]
    words = [
        _singular(_SPELLINGS.get(t, t))
        for t in tokens
        if t not in _SIDES and t not in _BOTH and t not in _IGNORED and not _NUMBER.match(t)
    ]
    if numbers and not words and not numbers[0].isdigit():
        words = ["vertebra"]  # "L1"
    return Words(
        words=tuple(words),
        side=sides.pop() if len(sides) == 1 and not both else "",
        number=numbers[0] if len(numbers) == 1 else " ".join(numbers),
    )


def _ascii(text: str) -> str:
    """Return a text without accents and ligatures."""
    for letter, plain in (("ß", "ss"), ("œ", "oe"), ("Œ", "Oe")):
        text = text.replace(letter, plain)
    apart = unicodedata.normalize("NFKD", text)
    return "".join(c for c in apart if not unicodedata.combining(c))


def _number(token: str) -> str:
    """Return a number without leading zeros: `rib 04` is `rib 4`."""
    letter = token[:1] if token[:1].isalpha() else ""
    return f"{letter}{int(token.removeprefix(letter))}"


def _singular(word: str) -> str:
    """Return the singular of a regular English plural; other words may change too, but always equally."""
    if len(word) <= 3 or word.endswith(_SINGULAR_ENDS) or word.isdigit():
        return word
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    return word.removesuffix("s")
