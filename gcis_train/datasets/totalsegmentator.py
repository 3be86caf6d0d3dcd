"""Find the cases of TotalSegmentator v1, v2 and v3: 1204, 1228 and 1939 CTs with 104 or 117 structures.

Layout and names: https://doi.org/10.5281/zenodo.6802613 (v1), https://doi.org/10.5281/zenodo.10047292 (v2),
https://github.com/wasserth/TotalSegmentator and Wasserthal et al., Radiology: AI 2023. A case is a folder
`s0011` with `ct.nii.gz` and `segmentations/<structure>.nii.gz`; `meta.csv` (separated by `;`) lists the part
of each case. The `meta.csv` of v3 (the latest version of the first record) was not available: parts with
other names than `train`, `val` and `test` are reported. Structures outside the image have an empty mask.
Kidney cysts (v2) have separate files.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from gcis_runtime.errors import DataError
from gcis_train.datasets.listing import Listing
from gcis_train.datasets.samples import Dataset, Mask, Part, Sample, Scan, Skip

_SINGLE = [
    "spleen", "gallbladder", "liver", "stomach", "pancreas", "esophagus", "trachea", "thyroid_gland",
    "small_bowel", "duodenum", "colon", "urinary_bladder", "prostate", "sacrum", "heart", "aorta",
    "pulmonary_vein", "pulmonary_artery", "brachiocephalic_trunk", "superior_vena_cava",
    "inferior_vena_cava", "spinal_cord", "brain", "skull", "sternum", "costal_cartilages", "face",
    "heart_myocardium", "portal_vein_and_splenic_vein", "lung_middle_lobe_right",
    "atrial_appendage_left"
]  # fmt: skip
_PAIRED = [
    "kidney", "adrenal_gland", "lung_upper_lobe", "lung_lower_lobe", "kidney_cyst", "subclavian_artery",
    "common_carotid_artery", "brachiocephalic_vein", "iliac_artery", "iliac_vena", "humerus", "scapula",
    "clavicula", "femur", "hip", "gluteus_maximus", "gluteus_medius", "gluteus_minimus", "autochthon",
    "iliopsoas", "heart_atrium", "heart_ventricle"
]  # fmt: skip
_VERTEBRAE = [
    "S1",
    *(f"L{n}" for n in range(1, 6)),
    *(f"T{n}" for n in range(1, 13)),
    *(f"C{n}" for n in range(1, 8)),
]
STRUCTURES = frozenset(
    [
        *_SINGLE,
        *(f"{name}_{side}" for name in _PAIRED for side in ("left", "right")),
        *(f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13)),
        *(f"vertebrae_{name}" for name in _VERTEBRAE),
    ]
)
"""Mask files of both versions, without `.nii.gz`."""

_WORDS = {
    "portal vein and splenic vein": "portal and splenic veins",
    "iliac vena": "iliac vein",
    "clavicula": "clavicle",
    "hip": "hip bone",
    "autochthon": "autochthonous back muscles",
    "iliopsoas": "iliopsoas muscle",
    "gluteus maximus": "gluteus maximus muscle",
    "gluteus medius": "gluteus medius muscle",
    "gluteus minimus": "gluteus minimus muscle",
    "vertebrae": "vertebra",
}
"""Readable forms of published names."""

_PARTS: dict[str, Part] = {"train": "training", "val": "validation", "test": "test"}


def prompt_of(name: str) -> str:
    """Return the prompt of a mask file, with the side first (`iliac_vena_left`: left iliac vein)."""
    side = re.search(r"_(left|right)(?=_|$)", name)
    plain = name.replace(side.group(0), "", 1) if side else name
    text = plain.replace("_", " ")
    head = re.sub(r" (\d+|[SLTC]\d+)$", "", text)
    words = _WORDS.get(head, head) + text[len(head) :]
    return f"{side.group(1)} {words}" if side else words


def scan(listing: Listing) -> Scan:
    """Return the cases of TotalSegmentator."""
    images = listing.find(r"(?P<key>s\d{4})/ct\.nii\.gz$")
    masks: dict[str, list[Mask]] = {}
    for name in listing.names:
        match = re.search(r"(?:^|/)(s\d{4})/segmentations/(\w+)\.nii\.gz$", name)
        if match and match[2] in STRUCTURES:
            organ = prompt_of(match[2]).removesuffix(" cyst") if "_cyst_" in match[2] else ""
            mask = Mask(
                prompt=prompt_of(match[2]), files=(listing.root / name,), values=(1,), lesion_of=organ
            )
            masks.setdefault(match[1], []).append(mask)
    published = _parts(listing.root)
    parts = {name: _PARTS[part] for name, part in published.items() if part in _PARTS}
    unknown = Counter(part for name, part in published.items() if part not in _PARTS and name in images)
    notes = [
        f"meta.csv has the unknown part {part!r} for {count} cases: they are not held out as a test part"
        for part, count in sorted(unknown.items())
    ]
    samples = [
        Sample(name=key, image=file, masks=tuple(masks[key]), part=parts.get(key, ""))
        for key, file in images.items()
        if key in masks
    ]
    skipped = [Skip(name=key, reason="no mask") for key in images if key not in masks]
    skipped += [Skip(name=key, reason="no image file") for key in sorted(masks) if key not in images]
    return Scan(samples=tuple(samples), skipped=tuple(skipped), notes=tuple(notes))


def _parts(root: Path) -> dict[str, str]:
    """Read the part of each case from `meta.csv`, if the file exists."""
    file = root / "meta.csv"
    if not file.is_file():
        return {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            return {row["image_id"]: row["split"] or "" for row in csv.DictReader(handle, delimiter=";")}
    except (KeyError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} does not list the part of each case",
            received=f"no {error}",
            expected="columns image_id and split, separated by semicolons",
        ) from error


DATASET = Dataset(
    kind="totalsegmentator",
    title="TotalSegmentator",
    source="https://doi.org/10.5281/zenodo.10047292",
    layout="s0011/ct.nii.gz, s0011/segmentations/liver.nii.gz, …, and meta.csv",
    scan=scan,
)
