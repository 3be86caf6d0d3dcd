"""Find the CT cases of AMOS: 300 labelled abdominal CTs with 15 organs.

Layout and labels: https://zenodo.org/records/7262581 and Ji et al., NeurIPS 2022 (`amos22` with `imagesTr`,
`labelsTr`, `imagesVa`, `labelsVa`, `imagesTs`, files `amos_0001.nii.gz`; its `dataset.json` names the label
values). Numbers up to 500 are CT; higher numbers are MRI, which the network does not support. The test part
has no labels.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from gcis_train.datasets.listing import SUFFIX, Listing
from gcis_train.datasets.samples import Dataset, Part, Scan, Skip, label_map, paired

ORGANS = {
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gallbladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "inferior vena cava",
    10: "pancreas",
    11: "right adrenal gland",
    12: "left adrenal gland",
    13: "duodenum",
    14: "urinary bladder",
    15: "prostate or uterus",
}
LAST_CT = 500
_PARTS: dict[str, Part] = {"imagesTr": "training", "imagesVa": "validation"}


def scan(listing: Listing) -> Scan:
    """Return the CT cases of AMOS."""
    images = listing.find(rf"images(?:Tr|Va)/amos_(?P<key>\d{{4}}){SUFFIX}")
    labels = listing.find(rf"labels(?:Tr|Va)/amos_(?P<key>\d{{4}}){SUFFIX}")
    mri = sorted(key for key in images.keys() | labels.keys() if int(key) > LAST_CT)
    for key in mri:
        images.pop(key, None), labels.pop(key, None)
    found = paired(images, labels, lambda file: label_map(file, ORGANS), name="amos_{}", part=_part)
    out = tuple(Skip(name=f"amos_{key}", reason=f"MRI (number above {LAST_CT})") for key in mri)
    return dataclasses.replace(found, skipped=found.skipped + out)


def _part(image: Path) -> Part:
    return _PARTS[image.parent.name]


DATASET = Dataset(
    kind="amos",
    title="AMOS",
    source="https://zenodo.org/records/7262581",
    layout="imagesTr/amos_0001.nii.gz and labelsTr/amos_0001.nii.gz, and the same for Va",
    scan=scan,
    aside=(r"(?:images|labels)(?:Tr|Va)/amos_0[56]\d\d", r"(?:images|labels)Ts/amos_\d{4}"),
)
