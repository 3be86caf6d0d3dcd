"""Find the cases of OpenKBP, converted to NIfTI: head-and-neck planning CTs with seven structures.

The challenge (Babier et al., Medical Physics 2021, https://github.com/ababier/open-kbp) publishes sparse
CSV files; `docs/how-to/headneck.md` describes their conversion to `pt_1_ct.nii.gz` and `pt_1_label.nii.gz`
with the label values below. The folders `train`, `val` and `test` are the parts of the challenge. A structure
without voxels was not contoured, which does not mean that it is absent: it gets no row.
"""

from __future__ import annotations

from pathlib import Path

from gcis_runtime.demo.phantom import STRUCTURES
from gcis_train.datasets.listing import SUFFIX, Listing
from gcis_train.datasets.samples import Dataset, Part, Scan, label_map, paired

_PARTS: dict[str, Part] = {
    "train": "training",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


def scan(listing: Listing) -> Scan:
    """Return the cases of converted OpenKBP."""
    images = listing.find(rf"(?P<key>[^/]+)_ct{SUFFIX}")
    labels = listing.find(rf"(?P<key>[^/]+)_label{SUFFIX}")
    return paired(images, labels, lambda file: label_map(file, STRUCTURES), part=_part)


def _part(image: Path) -> Part:
    return _PARTS.get(image.parent.name, "")


DATASET = Dataset(
    kind="openkbp",
    title="OpenKBP",
    source="https://github.com/ababier/open-kbp",
    layout="pt_1_ct.nii.gz and pt_1_label.nii.gz, in train/, val/ and test/ or in one folder",
    scan=scan,
    absent_is_unknown=True,
)
