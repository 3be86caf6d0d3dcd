"""Find the cases of WORD: 150 abdominal CTs of radiotherapy patients with 16 organs, in three parts.

Layout and labels: https://github.com/HiLab-git/WORD and Luo et al., Medical Image Analysis 2022
(`WORD-V0.1.0` with `imagesTr`, `labelsTr`, `imagesVal`, `labelsVal`, `imagesTs`, `labelsTs`, files
`word_0002.nii.gz`). Both adrenal glands share one label.
"""

from __future__ import annotations

from pathlib import Path

from gcis_train.datasets.listing import SUFFIX, Listing
from gcis_train.datasets.samples import Dataset, Part, Scan, label_map, paired

ORGANS = {
    1: "liver",
    2: "spleen",
    3: "left kidney",
    4: "right kidney",
    5: "stomach",
    6: "gallbladder",
    7: "esophagus",
    8: "pancreas",
    9: "duodenum",
    10: "colon",
    11: "intestine",
    12: "adrenal gland",
    13: "rectum",
    14: "urinary bladder",
    15: "left femoral head",
    16: "right femoral head",
}
_PARTS: dict[str, Part] = {"imagesTr": "training", "imagesVal": "validation", "imagesTs": "test"}


def scan(listing: Listing) -> Scan:
    """Return the cases of WORD."""
    images = listing.find(rf"images(?:Tr|Val|Ts)/word_(?P<key>\d+){SUFFIX}")
    labels = listing.find(rf"labels(?:Tr|Val|Ts)/word_(?P<key>\d+){SUFFIX}")
    return paired(images, labels, lambda file: label_map(file, ORGANS), name="word_{}", part=_part)


def _part(image: Path) -> Part:
    return _PARTS[image.parent.name]


DATASET = Dataset(
    kind="word",
    title="WORD",
    source="https://github.com/HiLab-git/WORD",
    layout="imagesTr/word_0002.nii.gz and labelsTr/word_0002.nii.gz, and the same for Val and Ts",
    scan=scan,
)
