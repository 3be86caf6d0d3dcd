"""Define a small folder tree with the real file names of every dataset, and the expected datalist."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK

IMAGE = "image"
"""Content of a CT file."""

MASK = (1,)
"""Content of a label file with one structure."""


@dataclasses.dataclass(frozen=True)
class Tree:
    """A small dataset.

    Attributes:
        files: Content by path: IMAGE, the values of a label file, or text.
        cases: Expected samples in order, with the split of each.
        prompts: Some structures of the first sample with their expected values.
        lost: A label file without which a case is incomplete, and that case.
        stray: An unexpected image.
    """

    files: dict[str, object]
    cases: dict[str, str]
    prompts: dict[str, tuple[int, ...] | None]
    lost: tuple[str, str]
    stray: str


def write_tree(root: Path, files: dict[str, object]) -> Path:
    """Write the files; images have 8 x 8 x 8 voxels."""
    rng = np.random.default_rng(0)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content != IMAGE:
            path.write_text(content)
            continue
        if content == IMAGE:
            array = rng.integers(-1000, 1000, (8, 8, 8)).astype(np.int16)
        else:
            array = np.zeros((8, 8, 8), np.uint8)
            for n, value in enumerate(content):  # type: ignore[arg-type]
                array[n % 8, :, n // 8] = value
        if name.endswith(".nrrd"):
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))
        else:
            nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return root


def _msd(task: str, labels: dict[str, str], cases: list[str]) -> dict[str, object]:
    pairs = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases]
    index = {"name": task, "modality": {"0": "CT"}, "labels": labels, "training": pairs, "test": []}
    values = tuple(int(v) for v in labels if v != "0")
    return {
        f"{task}/dataset.json": json.dumps(index),
        f"{task}/imagesTs/{cases[0]}9.nii.gz": IMAGE,
        f"{task}/imagesTr/._{cases[0]}.nii.gz": "made on a Mac",
        **{f"{task}/imagesTr/{c}.nii.gz": IMAGE for c in cases},
        **{f"{task}/labelsTr/{c}.nii.gz": values for c in cases},
    }


_HAN = "HaN-Seg/set_1"
_BTCV = "Abdomen/RawData"
_ORGANS = tuple(range(1, 17))

TREES: dict[str, Tree] = {
    "hanseg": Tree(
        files={
            f"{_HAN}/OAR_data.csv": "case,organ",
            **{
                f"{_HAN}/{c}/{c}_{name}": content
                for c in ("case_01", "case_02")
                for name, content in {
                    "IMG_CT.nrrd": IMAGE,
                    "IMG_MR_T1.nrrd": IMAGE,
                    "OAR_Parotid_L.seg.nrrd": MASK,
                }.items()
            },
            f"{_HAN}/case_01/case_01_OAR_A_Carotid_R.seg.nrrd": MASK,
            f"{_HAN}/case_01/case_01_OAR_Eye_AL.seg.nrrd": MASK,
        },
        cases={"case_01": "", "case_02": ""},
        prompts={
            "left parotid gland": None,
            "right carotid artery": None,
            "anterior segment of the left eyeball": None,
        },
        lost=(f"{_HAN}/case_02/case_02_OAR_Parotid_L.seg.nrrd", "case_02"),
        stray=f"{_HAN}/case_02/case_02_OAR_Tongue.seg.nrrd",
    ),
    "pancreas-ct": Tree(
        files={
            "data/PANCREAS_0001.nii.gz": IMAGE,
            "data/PANCREAS_0002.nii.gz": IMAGE,
            "TCIA_pancreas_labels-02-05-2017/label0001.nii.gz": MASK,
            "TCIA_pancreas_labels-02-05-2017/label0002.nii.gz": MASK,
        },
        cases={"PANCREAS_0001": "", "PANCREAS_0002": ""},
        prompts={"pancreas": (1,)},
        lost=("TCIA_pancreas_labels-02-05-2017/label0002.nii.gz", "PANCREAS_0002"),
        stray="data/another.nii.gz",
    ),
    "msd": Tree(
        files={
            **_msd("Task03_Liver", {"0": "background", "1": "liver", "2": "cancer"}, ["liver_0", "liver_1"]),
            **_msd(
                "Task08_HepaticVessel",
                {"0": "background", "1": "Vessel", "2": "Tumour"},
                ["hepaticvessel_001"],
            ),
            **_msd("Task10_Colon", {"0": "background", "1": "colon cancer primaries"}, ["colon_001"]),
        },
        cases={
            "Task03_Liver/liver_0": "",
            "Task03_Liver/liver_1": "",
            "Task08_HepaticVessel/hepaticvessel_001": "",
            "Task10_Colon/colon_001": "",
        },
        prompts={"liver": (1, 2), "liver tumor": (2,)},
        lost=("Task03_Liver/labelsTr/liver_1.nii.gz", "Task03_Liver/liver_1"),
        stray="Task03_Liver/imagesTr/liver_77.nii.gz",
    ),
    "segrap": Tree(
        files={
            f"SegRap2023_Training_Set_120cases/{case}/{name}.nii.gz": content
            for case in ("segrap_0000", "segrap_0001")
            for name, content in {
                "image": IMAGE,
                "image_contrast": IMAGE,
                "Parotid_L": MASK,
                "Parotid_R": MASK,
                "GTVp": MASK,
            }.items()
        }
        | {
            "SegRap2023_Training_Set_120cases_Update_Labels/segrap_0000/Parotid_L.nii.gz": MASK,
            "SegRap2023_Training_Set_120cases_OneHot_Labels/Task001/segrap_0000.nii.gz": (40, 41),
        },
        cases={"segrap_0000": "", "segrap_0000_contrast": "", "segrap_0001": "", "segrap_0001_contrast": ""},
        prompts={"left parotid gland": None, "right parotid gland": None, "nasopharyngeal tumor": None},
        lost=("SegRap2023_Training_Set_120cases/segrap_0001/*", "segrap_0001"),
        stray="SegRap2023_Training_Set_120cases/segrap_0001/Tongue.nii.gz",
    ),
    "btcv": Tree(
        files={
            f"{_BTCV}/Training/img/img0001.nii.gz": IMAGE,
            f"{_BTCV}/Training/img/img0002.nii.gz": IMAGE,
            f"{_BTCV}/Training/label/label0001.nii.gz": _ORGANS[:13],
            f"{_BTCV}/Training/label/label0002.nii.gz": _ORGANS[:13],
            f"{_BTCV}/Testing/img/img0061.nii.gz": IMAGE,
        },
        cases={"img0001": "", "img0002": ""},
        prompts={"spleen": (1,), "portal and splenic veins": (10,), "left adrenal gland": (13,)},
        lost=(f"{_BTCV}/Training/label/label0002.nii.gz", "img0002"),
        stray=f"{_BTCV}/Training/img/notes.nii.gz",
    ),
    "lits": Tree(
        files={
            "Training Batch 1/volume-0.nii": IMAGE,
            "Training Batch 1/segmentation-0.nii": (1, 2),
            "Training Batch 2/volume-48.nii": IMAGE,
            "Training Batch 2/segmentation-48.nii": (1, 2),
            "LITS-Challenge-Test-Data/test-volume-0.nii": IMAGE,
        },
        cases={"volume-0": "", "volume-48": ""},
        prompts={"liver": (1, 2), "liver tumor": (2,)},
        lost=("Training Batch 2/segmentation-48.nii", "volume-48"),
        stray="Training Batch 1/liver.nii",
    ),
    "kits": Tree(
        files={
            f"dataset/{case}/{name}": content
            for case in ("case_00000", "case_00001")
            for name, content in {
                "imaging.nii.gz": IMAGE,
                "segmentation.nii.gz": (1, 2, 3),
                "instances/kidney_instance-1_annotation-1.nii.gz": MASK,
            }.items()
        },
        cases={"case_00000": "", "case_00001": ""},
        prompts={"kidney": (1, 2, 3), "kidney tumor": (2,), "kidney cyst": (3,)},
        lost=("dataset/case_00001/segmentation.nii.gz", "case_00001"),
        stray="dataset/case_00001/prediction.nii.gz",
    ),
    "word": Tree(
        files={
            f"WORD-V0.1.0/{kind}{part}/word_{number}.nii.gz": content
            for part, number in (("Tr", "0002"), ("Tr", "0004"), ("Val", "0001"), ("Ts", "0014"))
            for kind, content in (("images", IMAGE), ("labels", _ORGANS))
        },
        cases={
            "word_0001": "validation",
            "word_0002": "training",
            "word_0004": "training",
            "word_0014": "test",
        },
        prompts={"liver": (1,), "adrenal gland": (12,), "left femoral head": (15,)},
        lost=("WORD-V0.1.0/labelsTr/word_0004.nii.gz", "word_0004"),
        stray="WORD-V0.1.0/imagesTr/other.nii.gz",
    ),
    "ct-org": Tree(
        files={
            f"OrganSegmentations/{kind}-{number}.nii.gz": content
            for number in (0, 21, 22)
            for kind, content in (("volume", IMAGE), ("labels", (1, 2, 3, 4, 5, 6)))
        },
        cases={"volume-0": "test", "volume-21": "training", "volume-22": "training"},
        prompts={"liver": (1,), "lung": (3,), "brain": (6,)},
        lost=("OrganSegmentations/labels-22.nii.gz", "volume-22"),
        stray="OrganSegmentations/volume-x.nii.gz",
    ),
    "amos": Tree(
        files={
            "amos22/dataset.json": "{}",
            "amos22/imagesTs/amos_0002.nii.gz": IMAGE,
            **{
                f"amos22/{kind}{part}/amos_{number}.nii.gz": content
                for part, number in (("Tr", "0001"), ("Tr", "0004"), ("Va", "0008"))
                for kind, content in (("images", IMAGE), ("labels", _ORGANS[:15]))
            },
        },
        cases={"amos_0001": "training", "amos_0004": "training", "amos_0008": "validation"},
        prompts={"inferior vena cava": (9,), "prostate or uterus": (15,)},
        lost=("amos22/labelsTr/amos_0004.nii.gz", "amos_0004"),
        stray="amos22/imagesTr/amos_1.nii.gz",
    ),
    "totalsegmentator": Tree(
        files={
            "meta.csv": "image_id;age;split\ns0000;1;train\ns0001;2;train\ns0002;3;val\ns0003;4;test\n",
            **{
                f"{case}/{name}.nii.gz": content
                for case in ("s0000", "s0001", "s0002", "s0003")
                for name, content in {
                    "ct": IMAGE,
                    "segmentations/kidney_left": MASK,
                    "segmentations/kidney_right": MASK,
                    "segmentations/kidney_cyst_left": MASK,
                    "segmentations/iliac_vena_left": MASK,
                    "segmentations/vertebrae_L5": MASK,
                    "segmentations/rib_left_11": MASK,
                }.items()
            },
        },
        cases={"s0000": "training", "s0001": "training", "s0002": "validation", "s0003": "test"},
        prompts={
            "left kidney": (1,),
            "left kidney cyst": (1,),
            "left iliac vein": (1,),
            "vertebra L5": (1,),
            "left rib 11": (1,),
        },
        lost=("s0001/segmentations/*", "s0001"),
        stray="s0000/segmentations/tongue.nii.gz",
    ),
    "openkbp": Tree(
        files={
            f"{part}/pt_{number}_{kind}.nii.gz": content
            for part, number in (("train", 1), ("train", 2), ("val", 201))
            for kind, content in (("ct", IMAGE), ("label", (1, 2, 7)))
        },
        cases={"pt_1": "training", "pt_2": "training", "pt_201": "validation"},
        prompts={"brainstem": (1,), "mandible": (7,)},
        lost=("train/pt_2_label.nii.gz", "pt_2"),
        stray="train/dose.nii.gz",
    ),
    "flare22": Tree(
        files={
            "FLARE22Train/images/FLARE22_Tr_0001_0000.nii.gz": IMAGE,
            "FLARE22Train/labels/FLARE22_Tr_0001.nii.gz": _ORGANS,
            "FLARE22Train/images/FLARE22_Tr_0002_0000.nii.gz": IMAGE,
            "FLARE22Train/labels/FLARE22_Tr_0002.nii.gz": _ORGANS,
            "UnlabeledCase/Case_00001_0000.nii.gz": IMAGE,
        },
        cases={"FLARE22_Tr_0001": "", "FLARE22_Tr_0002": ""},
        prompts={"liver": (1,), "right adrenal gland": (7,), "left kidney": (13,)},
        lost=("FLARE22Train/labels/FLARE22_Tr_0002.nii.gz", "FLARE22_Tr_0002"),
        stray="FLARE22Train/images/other.nii.gz",
    ),
}
