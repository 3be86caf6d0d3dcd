"""Find the cases of KiTS19, KiTS21 and KiTS23: abdominal CTs with kidneys, tumours and (since 2021) cysts.

Layouts and labels: https://github.com/neheller/kits19, /kits21 and /kits23. Each case is a folder
`case_00000` with `imaging.nii.gz` and `segmentation.nii.gz` (2019, 2023) or `aggregated_MAJ_seg.nii.gz`
(2021: the majority vote of three annotators, which that challenge scores; the unions and intersections are
ignored). The 2019 release has no cysts and is recognised by `kits.json`. The challenges score "kidney and
mass" as one region, which corresponds to an organ with its lesions here. Both kidneys share one label.
"""

from __future__ import annotations

from pathlib import Path

from gcis_train.datasets.listing import Listing
from gcis_train.datasets.samples import Dataset, Mask, Scan, label_map, paired

LABELS = {1: "kidney", 2: "kidney tumor", 3: "kidney cyst"}
LESIONS = {"kidney tumor": "kidney", "kidney cyst": "kidney"}


def scan(listing: Listing) -> Scan:
    """Return the cases of a KiTS release."""
    majority = listing.find(r"(?P<key>case_\d{5})/aggregated_MAJ_seg\.nii\.gz$")
    labels = listing.find(r"(?P<key>case_\d{5})/segmentation\.nii\.gz$") | majority
    return paired(listing.find(r"(?P<key>case_\d{5})/imaging\.nii\.gz$"), labels, _structures)


def _structures(file: Path) -> tuple[Mask, ...]:
    first = (file.parent.parent / "kits.json").is_file() and file.name == "segmentation.nii.gz"
    return label_map(file, {v: p for v, p in LABELS.items() if not (first and v == 3)}, LESIONS)


DATASET = Dataset(
    kind="kits",
    title="KiTS",
    source="https://kits-challenge.org/kits23/",
    layout="case_00000/imaging.nii.gz with segmentation.nii.gz (2019, 2023) or aggregated_MAJ_seg.nii.gz",
    scan=scan,
    aside=(
        r"case_\d{5}/aggregated_(?:OR|AND)_seg",
        r"case_\d{5}/(?:raw|segmentations|instances)/",
    ),
)
