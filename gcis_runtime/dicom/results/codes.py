"""Choose coded concepts for structures: SNOMED CT with laterality, or else a private scheme."""

from __future__ import annotations

import functools
import re
from typing import Any

from gcis_runtime.structures.match import concept_of, snomed_codes

PRIVATE_SCHEME = "99GCIS"
_SIDES = {"right": ("24028007", "Right"), "left": ("7771000", "Left")}
_LESIONS = {"metasta": "14799000", "cyst": "367643001"}
_NEOPLASM = "108369006"
_LESION = re.compile(r"tumou?r|lesion|sarcoma|carcinoma|metasta|nodule|cyst\b|cancer|neoplasm", re.IGNORECASE)


def category_of(name: str) -> Any:
    """Return the property category: anatomical structure, or morphologically abnormal one for a lesion."""
    from highdicom.sr import CodedConcept  # noqa: PLC0415 (optional)

    if _LESION.search(name):
        return CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure")
    return CodedConcept("91723000", "SCT", "Anatomical Structure")


def type_of(name: str, codes: dict[str, str]) -> tuple[Any, Any | None]:
    """Return the property type of a structure, and its laterality (None without a side).

    The SNOMED CT code is, in this order: a code of the structure that the DICOM dictionary contains, with the
    side as modifier; the bundle's code; any code of the structure; for a lesion that of a tumour, metastasis
    or cyst. Without one, the private scheme names the structure.

    Args:
        name: Name of the structure.
        codes: Codes of the bundle by scheme.
    """
    from highdicom.sr import CodedConcept  # noqa: PLC0415 (optional)

    side = concept_of(name).side
    modifier = CodedConcept(_SIDES[side][0], "SCT", _SIDES[side][1]) if side else None
    meanings = _dictionary()
    known = (*_vertebra_code(name), *snomed_codes(name))
    given = codes.get("SCT", "")
    if listed := next((code for code in (*known, given) if code in meanings), None):
        own_side = re.search(r"\b(left|right)\b", meanings[listed], re.IGNORECASE)
        return CodedConcept(listed, "SCT", meanings[listed]), None if own_side else modifier
    if given:  # may include the side
        return CodedConcept(given, "SCT", _meaning(name)), None
    if known:
        return CodedConcept(known[0], "SCT", _meaning(name)), modifier
    if _LESION.search(name):
        code = next((code for word, code in _LESIONS.items() if word in name.lower()), _NEOPLASM)
        return CodedConcept(code, "SCT", meanings[code]), modifier
    value = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")[:16] or "STRUCTURE"
    return CodedConcept(value, PRIVATE_SCHEME, _meaning(name)), modifier


def is_private(name: str, codes: dict[str, str]) -> bool:
    """Return whether a structure has no SNOMED CT code."""
    return bool(type_of(name, codes)[0].scheme_designator == PRIVATE_SCHEME)


def _vertebra_code(name: str) -> tuple[str, ...]:
    """Return the code of a single vertebra, such as L1; empty for other structures."""
    found = concept_of(name)
    if found.structure != concept_of("vertebra").structure or not found.number:
        return ()
    wanted = f"{found.number} vertebra".lower()
    return tuple(code for code, meaning in _dictionary().items() if meaning.lower() == wanted)


def _meaning(name: str) -> str:
    return " ".join(name.split())[:64]


@functools.cache
def _dictionary() -> dict[str, str]:
    """Return meaning by SNOMED CT code of the DICOM dictionary."""
    from pydicom.sr.codedict import codes  # noqa: PLC0415 (optional)

    concepts = [getattr(codes.SCT, keyword) for keyword in codes.SCT.dir()]
    return {c.value: c.meaning.removesuffix(" (body structure)")[:64] for c in concepts}
