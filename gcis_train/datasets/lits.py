"""Find the cases of LiTS: 131 abdominal CTs with liver and liver tumours.

Layout and labels: https://competitions.codalab.org/competitions/17094 and Bilic et al., Medical Image
Analysis 2023 (`Training Batch 1/volume-0.nii` and `segmentation-0.nii`); the test volumes have no labels.
The headers of some label files differ from those of their images (segmentation 53 has an identity-like
affine, https://github.com/MIC-DKFZ/nnUNet/issues/2751): labels are placed by the header of the image.
CT-ORG and the liver task of the Decathlon contain the same patients: do not train on one and validate on
another.
"""

from __future__ import annotations

from gcis_train.datasets.listing import SUFFIX, Listing
from gcis_train.datasets.samples import Dataset, Scan, label_map, paired

LABELS = {1: "liver", 2: "liver tumor"}
LESIONS = {"liver tumor": "liver"}
_HEADER = "the header of the image has an identity affine and a wrong voxel size"
BROKEN = {f"volume-{n}": _HEADER for n in range(28, 48)}
"""Known from an issue of LITS-CHALLENGE; the liver task of the Decathlon has these patients, repaired."""


def scan(listing: Listing) -> Scan:
    """Return the cases of LiTS."""
    images = listing.find(rf"volume-(?P<key>\d+){SUFFIX}")
    labels = listing.find(rf"segmentation-(?P<key>\d+){SUFFIX}")
    return paired(images, labels, lambda file: label_map(file, LABELS, LESIONS), name="volume-{}")


DATASET = Dataset(
    kind="lits",
    title="LiTS",
    source="https://competitions.codalab.org/competitions/17094",
    layout="volume-0.nii and segmentation-0.nii, in any folders",
    scan=scan,
    aside=(r"test-volume-\d+",),
    broken=BROKEN,
    label_geometry="image",
)
