"""Find the cases of HaN-Seg: 42 head-and-neck CTs with 30 organs at risk, one mask per file.

Layout and names: the dataset's README (https://zenodo.org/records/7442914) and Podobnik et al., "HaN-Seg:
The head and neck organ-at-risk CT and MR segmentation dataset", Medical Physics 2023, table 2. Images and
masks are NRRD; files converted to NIfTI with the same names are accepted. The MR images are on a different
grid and are ignored. Not every organ is contoured on every patient: a missing file means unknown.
"""

from __future__ import annotations

import re

from gcis_train.datasets.listing import SUFFIX, Listing
from gcis_train.datasets.samples import Dataset, Mask, Sample, Scan, Skip

ORGANS = {
    "A_Carotid_L": "left carotid artery",
    "A_Carotid_R": "right carotid artery",
    "Arytenoid": "arytenoid cartilages",
    "Bone_Mandible": "mandible",
    "Brainstem": "brainstem",
    "BuccalMucosa": "buccal mucosa",
    "Cavity_Oral": "oral cavity",
    "Cochlea_L": "left cochlea",
    "Cochlea_R": "right cochlea",
    "Cricopharyngeus": "cricopharyngeal inlet",
    "Esophagus_S": "cervical esophagus",
    "Eye_AL": "anterior segment of the left eyeball",
    "Eye_AR": "anterior segment of the right eyeball",
    "Eye_PL": "posterior segment of the left eyeball",
    "Eye_PR": "posterior segment of the right eyeball",
    "Glnd_Lacrimal_L": "left lacrimal gland",
    "Glnd_Lacrimal_R": "right lacrimal gland",
    "Glnd_Submand_L": "left submandibular gland",
    "Glnd_Submand_R": "right submandibular gland",
    "Glnd_Thyroid": "thyroid gland",
    "Glottis": "glottic larynx",
    "Larynx_SG": "supraglottic larynx",
    "Lips": "lips",
    "OpticChiasm": "optic chiasm",
    "OpticNrv_L": "left optic nerve",
    "OpticNrv_R": "right optic nerve",
    "Parotid_L": "left parotid gland",
    "Parotid_R": "right parotid gland",
    "Pituitary": "pituitary gland",
    "SpinalCord": "spinal cord",
}


def scan(listing: Listing) -> Scan:
    """Return the cases of HaN-Seg."""
    images = listing.find(rf"(?P<key>case_\d+)_IMG_CT{SUFFIX}")
    masks = listing.find(rf"(?P<key>case_\d+_OAR_\w+?)(?:\.seg)?{SUFFIX}")
    by_case: dict[str, list[Mask]] = {key: [] for key in images}
    for key, file in masks.items():
        case, organ = re.split("_OAR_", key)
        if organ in ORGANS:
            by_case.setdefault(case, []).append(Mask(prompt=ORGANS[organ], files=(file,)))
    samples = [
        Sample(name=case, image=images[case], masks=tuple(found))
        for case, found in by_case.items()
        if case in images and found
    ]
    skipped = [
        Skip(name=case, reason="no image file" if case not in images else "no label file")
        for case, found in by_case.items()
        if case not in images or not found
    ]
    return Scan(samples=tuple(samples), skipped=tuple(skipped))


BROKEN = {"case_19": "image and masks do not match"}
"""Also left out by SAT-DS."""

DATASET = Dataset(
    broken=BROKEN,
    kind="hanseg",
    title="HaN-Seg",
    source="https://zenodo.org/records/7442914",
    layout="set_1/case_01/case_01_IMG_CT.nrrd and case_01_OAR_*.seg.nrrd",
    scan=scan,
    aside=(r"case_\d+_IMG_MR_T1",),
)
