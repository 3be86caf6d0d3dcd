"""Find the cases of CT-ORG: 140 CTs with liver, bladder, lungs, kidneys, bones and brain.

Layout, labels and split: the dataset's README (https://www.cancerimagingarchive.net/collection/ct-org/) and
Rister et al., Scientific Data 2020 (`volume-0.nii.gz` and `labels-0.nii.gz`). Volumes 0 to 20 are its test
part, the only cases with manual contours of lungs and bones. 131 of the volumes are those of LiTS. Both lungs
share one label, as do both kidneys and all bones.
"""

from __future__ import annotations

from pathlib import Path

from gcis_train.datasets.listing import SUFFIX, Listing
from gcis_train.datasets.samples import Dataset, Part, Scan, label_map, paired

ORGANS = {1: "liver", 2: "urinary bladder", 3: "lung", 4: "kidney", 5: "bone", 6: "brain"}
LAST_TEST = 20


def scan(listing: Listing) -> Scan:
    """Return the cases of CT-ORG."""
    images = listing.find(rf"volume-(?P<key>\d+){SUFFIX}")
    labels = listing.find(rf"labels-(?P<key>\d+){SUFFIX}")
    return paired(images, labels, lambda file: label_map(file, ORGANS), name="volume-{}", part=_part)


def _part(image: Path) -> Part:
    number = int(image.name.split(".")[0].removeprefix("volume-"))
    return "test" if number <= LAST_TEST else "training"


DATASET = Dataset(
    kind="ct-org",
    title="CT-ORG",
    source="https://www.cancerimagingarchive.net/collection/ct-org/",
    layout="volume-0.nii.gz and labels-0.nii.gz, in any folders",
    scan=scan,
)
