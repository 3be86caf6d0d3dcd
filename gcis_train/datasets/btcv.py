"""Find the cases of BTCV abdomen ("Beyond the Cranial Vault"): 30 labelled CTs with 13 organs.

Layout and labels: https://www.synapse.org/Synapse:syn3193805/wiki/217789
(`RawData/Training/img/img0001.nii.gz` and `label/label0001.nii.gz`); the 20 test images have no labels.
"""

from __future__ import annotations

from gcis_train.datasets.listing import SUFFIX, Listing
from gcis_train.datasets.samples import Dataset, Scan, label_map, paired

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
    10: "portal and splenic veins",
    11: "pancreas",
    12: "right adrenal gland",
    13: "left adrenal gland",
}
_TEST = r"(?:Testing/img|imagesTs)/img\d{4}"


def scan(listing: Listing) -> Scan:
    """Return the cases of BTCV."""
    images = listing.find(rf"(?:Training/)?(?:img|imagesTr)/img(?P<key>\d{{4}}){SUFFIX}")
    labels = listing.find(rf"label(?P<key>\d{{4}}){SUFFIX}")
    tests = listing.find(rf"(?:Testing/img|imagesTs)/img(?P<key>\d{{4}}){SUFFIX}")
    images = {key: file for key, file in images.items() if key not in tests}
    return paired(images, labels, lambda file: label_map(file, ORGANS), name="img{}")


DATASET = Dataset(
    kind="btcv",
    title="BTCV",
    source="https://www.synapse.org/Synapse:syn3193805/wiki/217789",
    layout="RawData/Training/img/img0001.nii.gz and RawData/Training/label/label0001.nii.gz",
    scan=scan,
    aside=(_TEST,),
)
