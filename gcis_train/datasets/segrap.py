"""Find the cases of SegRap2023: plain and contrast CT of 120 patients with 45 organs and 2 tumour volumes.

Layout and names: https://segrap2023.grand-challenge.org/dataset/ and Luo et al., Medical Image Analysis
2025. A case folder `segrap_0000` holds `image.nii.gz`, `image_contrast.nii.gz` and one mask per structure.
The updated labels of task 1 are a second tree of case folders and replace the masks of the same name. Both
CTs are samples; a split keeps those of a patient together. The one-hot label maps repeat the masks and are
ignored.
"""

from __future__ import annotations

from pathlib import Path

from gcis_train.datasets.listing import Listing
from gcis_train.datasets.samples import Dataset, Mask, Sample, Scan, Skip

_PAIRED = {
    "TemporalLobe": "temporal lobe",
    "Hippocampus": "hippocampus",
    "Eye": "eye",
    "Lens": "lens of the eye",
    "OpticNerve": "optic nerve",
    "MiddleEar": "middle ear",
    "IAC": "internal auditory canal",
    "TympanicCavity": "tympanic cavity",
    "VestibulSemi": "vestibule and semicircular canals",
    "Cochlea": "cochlea",
    "ETbone": "bony Eustachian tube",
    "Mandible": "mandible",
    "Submandibular": "submandibular gland",
    "Parotid": "parotid gland",
    "Mastoid": "mastoid",
    "TMjoint": "temporomandibular joint",
}
STRUCTURES = {
    "Brain": "brain",
    "BrainStem": "brainstem",
    "Chiasm": "optic chiasm",
    "Pituitary": "pituitary gland",
    "OralCavity": "oral cavity",
    "SpinalCord": "spinal cord",
    "Esophagus": "esophagus",
    "Larynx": "larynx",
    "Larynx_Glottic": "glottic larynx",
    "Larynx_Supraglot": "supraglottic larynx",
    "PharynxConst": "pharyngeal constrictor muscle",
    "Thyroid": "thyroid gland",
    "Trachea": "trachea",
    "GTVp": "nasopharyngeal tumor",
    "GTVnd": "metastatic cervical lymph nodes",
} | {
    f"{name}_{side[0].upper()}": f"{side} {prompt}"
    for name, prompt in _PAIRED.items()
    for side in ("left", "right")
}
"""Prompt of each mask file: 45 organs (13 single, 16 paired) and two gross tumour volumes."""

_IMAGES = {"image": "", "image_contrast": "_contrast"}


def scan(listing: Listing) -> Scan:
    """Return the cases of SegRap2023."""
    cases: dict[str, dict[str, Path]] = {}
    masks: dict[str, dict[str, Path]] = {}
    # Updated labels are sorted last, so that they replace the first ones.
    for name in sorted(listing.names, key=lambda n: ("Update" in n, n)):
        parts = name.split("/")
        case = parts[-2] if len(parts) > 1 else listing.root.resolve().name
        structure = parts[-1].removesuffix(".nii.gz")
        if not case.startswith("segrap_"):
            continue
        if structure in _IMAGES:
            cases.setdefault(case, {})[structure] = listing.root / name
        elif structure in STRUCTURES:
            masks.setdefault(case, {})[structure] = listing.root / name
    samples = [
        Sample(
            name=case + _IMAGES[kind],
            image=file,
            patient=case,
            masks=tuple(Mask(prompt=STRUCTURES[s], files=(f,)) for s, f in sorted(masks[case].items())),
        )
        for case, images in sorted(cases.items())
        for kind, file in sorted(images.items())
        if case in masks
    ]
    skipped = [Skip(name=case, reason="no mask") for case in sorted(set(cases) - set(masks))]
    skipped += [Skip(name=case, reason="no image file") for case in sorted(set(masks) - set(cases))]
    return Scan(samples=tuple(samples), skipped=tuple(skipped))


DATASET = Dataset(
    kind="segrap",
    title="SegRap2023",
    source="https://segrap2023.grand-challenge.org/dataset/",
    layout="segrap_0000/image.nii.gz, image_contrast.nii.gz and one mask per structure (Parotid_L.nii.gz)",
    scan=scan,
    aside=(
        r"SegRap2023_Training_Set_120cases_OneHot_Labels",
        r"Task00[12]/segrap_",
        r"segrap_\d+/(?:" + "|".join(STRUCTURES) + r")\.nii\.gz",  # replaced by the updated labels
    ),
)
