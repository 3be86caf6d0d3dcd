"""Find the labelled cases of FLARE22: 50 abdominal CTs with 13 organs.

Layout and labels: https://flare22.grand-challenge.org/Dataset/ and Ma et al., Lancet Digital Health 2024. The
images of the labelled part are `FLARE22_Tr_0001_0000.nii.gz`, their labels `FLARE22_Tr_0001.nii.gz`; the 2000
unlabelled images (`Case_00001_0000.nii.gz`) and the validation images have no public labels.
"""

from __future__ import annotations

from gcis_train.datasets.listing import SUFFIX, Listing
from gcis_train.datasets.samples import Dataset, Scan, label_map, paired

ORGANS = {
    1: "liver",
    2: "right kidney",
    3: "spleen",
    4: "pancreas",
    5: "aorta",
    6: "inferior vena cava",
    7: "right adrenal gland",
    8: "left adrenal gland",
    9: "gallbladder",
    10: "esophagus",
    11: "stomach",
    12: "duodenum",
    13: "left kidney",
}


def scan(listing: Listing) -> Scan:
    """Return the labelled cases of FLARE22."""
    images = listing.find(rf"FLARE22_Tr_(?P<key>\d{{4}})_0000{SUFFIX}")
    labels = listing.find(rf"FLARE22_Tr_(?P<key>\d{{4}}){SUFFIX}")
    return paired(images, labels, lambda file: label_map(file, ORGANS), name="FLARE22_Tr_{}")


DATASET = Dataset(
    kind="flare22",
    title="FLARE22",
    source="https://flare22.grand-challenge.org/Dataset/",
    layout="images/FLARE22_Tr_0001_0000.nii.gz and labels/FLARE22_Tr_0001.nii.gz, in any folders",
    scan=scan,
    aside=(r"Case_\d{5}_0000", r"FLARETs_\d{4}_0000"),
)
