"""Find the cases of TCIA Pancreas-CT (NIH): 80 abdominal CTs with the pancreas.

Layout: https://www.cancerimagingarchive.net/collection/pancreas-ct/ (Roth et al., MICCAI 2015). The
collection publishes DICOM series in folders `PANCREAS_0001` … and labels as `label0001.nii.gz` (the archive
`TCIA_pancreas_labels-02-05-2017`). Images must be converted to files named after their series, such as
`PANCREAS_0001.nii.gz`. The headers of the label files differ from those of the converted images, and the
order of their slices or rows may differ too, depending on the converter: labels are placed by the header of
the image, and labels that lie reversed against it are refused when they are read. Series 25 and 70 are copies
of another patient; their folders are empty in the current version, and older copies of them are skipped.
"""

from __future__ import annotations

import dataclasses

from gcis_train.datasets.listing import SUFFIX, Listing
from gcis_train.datasets.samples import Dataset, Scan, Skip, label_map, paired

WITHDRAWN = ("0025", "0070")
_NAME = "PANCREAS_{}"


def scan(listing: Listing) -> Scan:
    """Return the cases of Pancreas-CT."""
    images = listing.find(rf"PANCREAS_(?P<key>\d{{4}})[^/]*{SUFFIX}")
    labels = listing.find(rf"label(?P<key>\d{{4}}){SUFFIX}")
    withdrawn = [key for key in WITHDRAWN if images.pop(key, None) or key in labels]
    for key in withdrawn:
        labels.pop(key, None)
    found = paired(images, labels, lambda file: label_map(file, {1: "pancreas"}), name=_NAME)
    out = tuple(Skip(name=_NAME.format(k), reason="withdrawn by the collection") for k in withdrawn)
    return dataclasses.replace(found, skipped=found.skipped + out)


DATASET = Dataset(
    kind="pancreas-ct",
    title="TCIA Pancreas-CT",
    source="https://www.cancerimagingarchive.net/collection/pancreas-ct/",
    layout="PANCREAS_0001.nii.gz (converted from DICOM) and label0001.nii.gz, in any folders",
    scan=scan,
    aside=(r"PANCREAS_00(?:25|70)", r"label00(?:25|70)"),
    label_geometry="image",
)
