"""Give the mean HU that is plausible for known structures, by their tissue."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from gcis_runtime.structures.match import concept_of


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """A tissue, and the range of the mean HU of whole structures of it.

    The ranges are wide: they include fat, contrast agent and partial volume, and exclude other tissues.
    """

    name: str
    low: float
    high: float


_SOFT = Tissue(name="soft tissue", low=-120.0, high=500.0)
_BONE = Tissue(name="bone", low=50.0, high=2000.0)
_AIR = Tissue(name="lung and airways", low=-1024.0, high=-300.0)

_NAMES = {
    _SOFT: (
        "brain", "brainstem", "spinal cord", "parotid gland", "submandibular gland", "thyroid gland",
        "carotid artery", "common carotid artery", "eye", "lens of the eye", "lacrimal gland", "optic nerve",
        "optic chiasm", "pituitary gland", "temporal lobe", "hippocampus", "liver", "spleen", "pancreas",
        "kidney", "left kidney", "right kidney", "adrenal gland", "gallbladder", "urinary bladder",
        "prostate", "heart", "heart myocardium", "heart atrium", "left heart atrium", "right heart atrium",
        "heart ventricle", "left heart ventricle", "right heart ventricle", "atrial appendage", "aorta",
        "superior vena cava", "inferior vena cava", "pulmonary artery", "portal and splenic veins",
        "iliac artery", "iliac vein", "brachiocephalic trunk", "brachiocephalic vein", "subclavian artery",
        "gluteus maximus muscle", "gluteus medius muscle", "gluteus minimus muscle",
        "autochthonous back muscles", "iliopsoas muscle",
    ),
    _BONE: (
        "mandible", "bone", "vertebra", "rib", "sacrum", "sternum", "clavicle", "scapula", "humerus", "femur",
        "femoral head", "hip bone", "skull",
    ),
    _AIR: (
        "trachea", "lung", "left lung", "right lung", "lung upper lobe", "lung lower lobe",
        "lung middle lobe", "right lung middle lobe",
    ),
}  # fmt: skip
"""Structures of one tissue. Organs with gas, such as bowel and larynx, have no plausible range."""


def tissue_of(name: str) -> Tissue | None:
    """Return the tissue of a structure; None for unknown structures and those of mixed tissue."""
    return _by_structure().get(concept_of(name).structure)


@functools.cache
def _by_structure() -> dict[str, Tissue]:
    return {concept_of(name).structure: tissue for tissue, names in _NAMES.items() for name in names}
