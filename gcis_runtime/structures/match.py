"""Match the name of a structure to known prompts through aliases, translations and SNOMED CT codes."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from gcis_runtime.errors import AmbiguousPromptError
from gcis_runtime.structures import abdomen, bones_and_muscles, head_and_neck, thorax
from gcis_runtime.structures.words import Side, Words, parse_words

_TABLES = (head_and_neck.TERMS, thorax.TERMS, abdomen.TERMS, bones_and_muscles.TERMS)
_SIMILAR = 0.6
"""Smallest ratio of difflib at which a name is listed as similar."""


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A structure: its normalised name, its side of the body and its number, which are empty if not given."""

    structure: str
    side: Side = ""
    number: str = ""

    def includes(self, other: Concept) -> bool:
        """Return whether `other` is this structure with the same or a missing side and number filled in."""
        return (
            self.structure == other.structure
            and self.side in ("", other.side)
            and self.number in ("", other.number)
        )


def match_prompt(text: str, known: Sequence[Sequence[str]]) -> int | None:
    """Return the index of the known structure that a name denotes; None if there is none.

    A name in `known`, ignoring case and spaces, takes precedence over the table of aliases. The side is never
    guessed: a name without a side does not match a structure with one.

    Args:
        text: Prompt, alias, translation, file name of a dataset, or SNOMED CT code.
        known: Names per known structure, for example its prompt and its label name.

    Raises:
        AmbiguousPromptError: Several structures match, or the name lacks a side or number.
    """
    plain = _plain(text)
    for index, names in enumerate(known):
        if plain in map(_plain, names):
            return index
    wanted = concept_of(text)
    if not wanted.structure:
        return None
    concepts = [{concept_of(name) for name in names} for names in known]
    same = [i for i, found in enumerate(concepts) if wanted in found]
    if len(same) == 1:
        return same[0]
    close = same or [i for i, found in enumerate(concepts) if any(map(wanted.includes, found))]
    if not close:
        return None
    raise AmbiguousPromptError(
        "the prompt does not name one structure",
        received=repr(text),
        expected="one of " + ", ".join(repr(known[i][0]) for i in close),
        fix="Choose one of these names." if same else "Add the side or the number of the structure.",
    )


def nearest_prompts(text: str, known: Sequence[str], *, count: int = 3) -> tuple[str, ...]:
    """Return the known prompts whose names or aliases are most similar to a text, the most similar first.

    Prompts of the other side are returned only if there are no others.
    """
    words = parse_words(text)
    wanted, plain = " ".join(words.words), _plain(text)
    sides = {prompt: concept_of(prompt).side for prompt in known}
    other_side = {prompt for prompt in known if words.side and sides[prompt] not in ("", words.side)}
    scores: dict[str, float] = {}
    for prompt in known:
        concept = concept_of(prompt)
        names = _aliases().get(concept.structure, ()) or (" ".join(parse_words(prompt).words),)
        ratios = [_ratio(wanted, name) for name in names if wanted]
        scores[prompt] = max([*ratios, _ratio(plain, _plain(prompt))])
    ranked = sorted((p for p in scores if scores[p] >= _SIMILAR), key=lambda p: -scores[p])
    return tuple([p for p in ranked if p not in other_side][:count] or ranked[:count])


def names_structure(text: str) -> bool:
    """Return whether the tables have a name, as the name of a structure or as an alias."""
    return _listed(parse_words(text)) is not None


@functools.lru_cache(maxsize=1024)
def concept_of(text: str) -> Concept:
    """Return the structure that a name denotes; names outside the table denote themselves."""
    words = parse_words(text)
    found = _listed(words)
    plain = Concept(structure=words.key, side=words.side, number=words.number)
    return plain if found is None else _combined(found, words) or plain


def _listed(words: Words) -> Concept | None:
    """Return the concept of the tables that has these words as a name or alias."""
    return _index().get(words.key) or _joined().get(words.joined)


def _combined(found: Concept, words: Words) -> Concept | None:
    """Return a concept of the table with side and number of a name; None if they contradict each other."""
    if {found.side, words.side} == {"left", "right"}:
        return None
    if found.number and words.number and found.number != words.number:
        return None
    return Concept(
        structure=found.structure, side=found.side or words.side, number=found.number or words.number
    )


@functools.cache
def _entries() -> tuple[tuple[Words, Concept], ...]:
    """Return the words and the concept of each name of the tables."""
    entries = []
    for name, aliases in ((n, a) for table in _TABLES for n, a in table.items()):
        base = parse_words(name)
        concept = Concept(structure=base.key, side=base.side, number=base.number)
        for alias in (name, *aliases.split(";")):
            for spelling in {alias, _transcribed(alias)}:
                words = parse_words(spelling)
                entries.append((words, _combined(concept, words) or concept))
    return tuple(entries)


@functools.cache
def _index() -> dict[str, Concept]:
    """Return the concept per alphabetical key; names before aliases."""
    found: dict[str, Concept] = {}
    for words, concept in sorted(_entries(), key=lambda e: e[0].key != e[1].structure):
        found.setdefault(words.key, concept)
    return found


@functools.cache
def _joined() -> dict[str, Concept]:
    """Return the concept per name without spaces."""
    return {words.joined: concept for words, concept in reversed(_entries())}


@functools.cache
def _aliases() -> dict[str, tuple[str, ...]]:
    """Return the names per structure, as words without side and number."""
    found: dict[str, dict[str, None]] = {}
    for words, concept in _entries():
        if words.words and not words.joined.isdigit():
            found.setdefault(concept.structure, {})[" ".join(words.words)] = None
    return {structure: tuple(names) for structure, names in found.items()}


def _transcribed(text: str) -> str:
    """Return a German name with `ae`, `oe` and `ue` for its umlauts."""
    for letter, plain in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("Ö", "Oe"), ("Ü", "Ue")):
        text = text.replace(letter, plain)
    return text


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def snomed_codes(text: str) -> tuple[str, ...]:
    """Return the SNOMED CT codes of the structure that a name denotes, without its side; empty if unknown."""
    return _codes().get(concept_of(text).structure, ())


@functools.cache
def _codes() -> dict[str, tuple[str, ...]]:
    """Return the codes per structure; those of one side of a paired structure are left out."""
    found: dict[str, dict[str, None]] = {}
    for table in _TABLES:
        for name, aliases in table.items():
            base = parse_words(name)
            if not base.side:
                for alias in aliases.split(";"):
                    if alias.strip().isdigit():
                        found.setdefault(base.key, {})[alias.strip()] = None
    return {structure: tuple(codes) for structure, codes in found.items()}
