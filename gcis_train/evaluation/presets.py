"""Define the scoring rules of public challenges: classes, tolerances, empty masks and means.

Each preset follows the evaluation code of the organisers, named in `source`; for the Decathlon, whose code is
not public, the description. Rules that could not be established are listed in `open_rules`. A preset scores
predictions on the images of a datalist; ranks of teams, which the challenges compute from such scores, are
not part of it.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from gcis_train.datasets.segrap import STRUCTURES as SEGRAP

Metric = Literal["dice", "surface_dice", "hd95_mm"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoringClass:
    """A class of a challenge, built from structures of the datalist.

    Attributes:
        name: Name of the class.
        group: Part of the challenge over which a mean is taken, such as a task.
        prompts: Structures whose union is the class, in the truth and in the prediction.
        without: Structures that are removed from the truth, where a challenge scores an organ without the
            lesions in it; a predicted label map has one value per voxel.
        tolerance: Tolerance of the surface Dice in mm; None where the challenge does not use it.
        labelled_planes: Score only the planes of the file's third axis from the first with a true voxel to
            the one before the last with a true voxel.
    """

    name: str
    group: str
    prompts: tuple[str, ...]
    without: tuple[str, ...] = ()
    tolerance: float | None = None
    labelled_planes: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """The structures whose true masks the class needs."""
        return (*self.prompts, *self.without)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmptyRule:
    """Scores of a case with an empty mask.

    Attributes:
        dice: Dice.
        surface_dice: Surface Dice; None where the challenge does not use it.
        hd95_mm: HD95 in mm; None where the challenge does not use it.
    """

    dice: float
    surface_dice: float | None = None
    hd95_mm: float | None = None


_ONE = EmptyRule(dice=1.0, surface_dice=1.0)
_ZERO = EmptyRule(dice=0.0, surface_dice=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """The scoring rules of a challenge.

    Attributes:
        name: Name on the command line.
        title: Name of the challenge.
        source: Where the organisers define the rules.
        metrics: Scores of the challenge.
        classes: Classes in the order of the challenge.
        both_empty: Scores where the true and the predicted mask are empty.
        one_empty: Scores where exactly one of them is empty.
        one_group_per_case: Whether a case belongs only to the group whose structures it has.
        rules: Further rules, in words.
        open_rules: Rules that could not be established, and what is done instead.
    """

    name: str
    title: str
    source: str
    metrics: tuple[Metric, ...]
    classes: tuple[ScoringClass, ...]
    both_empty: EmptyRule
    one_empty: EmptyRule
    one_group_per_case: bool = False
    rules: tuple[str, ...] = ()
    open_rules: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups in the order of the challenge."""
        return tuple(dict.fromkeys(c.group for c in self.classes))


_MEAN = "a class has the mean over its cases, a group the mean over its classes, with equal weights"
_SURFACES = "surface Dice by area of marching-cubes surface elements, distances at voxel corners"
_ROUNDING = "the organisers round the score of each case to four decimals; only the summary is rounded here"

_MASSES = ("kidney tumor", "kidney cyst")

KITS23 = Preset(
    name="kits23",
    title="KiTS23",
    source="https://github.com/neheller/kits23 (kits23/evaluation/metrics.py, "
    "kits23/configuration/labels.py)",
    metrics=("dice", "surface_dice"),
    classes=(
        ScoringClass(
            name="kidney and masses",
            group="KiTS23",
            prompts=("kidney", *_MASSES),
            tolerance=1.0330772532390826,
        ),
        ScoringClass(name="masses", group="KiTS23", prompts=_MASSES, tolerance=1.1328796488598762),
        ScoringClass(name="tumor", group="KiTS23", prompts=("kidney tumor",), tolerance=1.1498198361434828),
    ),
    both_empty=_ONE,
    one_empty=_ZERO,
    rules=(
        "classes are nested: each is the union of its structures, in the truth and in the prediction",
        _SURFACES,
        _MEAN,
    ),
)

_FLARE22 = {
    "liver": 5,
    "right kidney": 3,
    "spleen": 3,
    "pancreas": 5,
    "aorta": 2,
    "inferior vena cava": 2,
    "right adrenal gland": 2,
    "left adrenal gland": 2,
    "gallbladder": 2,
    "esophagus": 3,
    "stomach": 5,
    "duodenum": 7,
    "left kidney": 3,
}
_FLARE22_PLANES = ("aorta", "inferior vena cava", "esophagus")

FLARE22 = Preset(
    name="flare22",
    title="FLARE22",
    source="https://github.com/JunMa11/FLARE (FLARE22/Evaluation/FLARE22_DSC_NSD_Eval.py)",
    metrics=("dice", "surface_dice"),
    classes=tuple(
        ScoringClass(
            name=prompt,
            group="FLARE22",
            prompts=(prompt,),
            tolerance=tolerance,
            labelled_planes=prompt in _FLARE22_PLANES,
        )
        for prompt, tolerance in _FLARE22.items()
    ),
    both_empty=_ONE,
    one_empty=_ZERO,
    rules=(
        f"{', '.join(_FLARE22_PLANES)}: only the planes of the file's third axis from the first labelled "
        "plane to the one before the last labelled plane; a structure in one plane has undefined scores, "
        "which are left out of the means",
        _SURFACES,
        _ROUNDING,
        _MEAN,
    ),
    open_rules=("running time and memory, which the challenge also ranks, are not measured here",),
)

SEGRAP2023 = Preset(
    name="segrap",
    title="SegRap2023",
    source="https://github.com/HiLab-git/SegRap2023 (Eval/SegRap_Task001_DSC_NSD_Eval.py, "
    "Eval/SegRap_Task002_DSC_NSD_Eval.py, Eval/two_evaluation_metrics.py)",
    metrics=("dice", "surface_dice"),
    classes=tuple(
        ScoringClass(
            name=prompt,
            group="task 2" if structure.startswith("GTV") else "task 1",
            prompts=(prompt,),
            tolerance={"Larynx": 2.0, "OralCavity": 3.0}.get(structure, 1.0),
        )
        for structure, prompt in SEGRAP.items()
    ),
    both_empty=_ONE,
    one_empty=_ZERO,
    rules=(
        "task 1: 45 organs; task 2: two gross tumour volumes",
        _SURFACES,
        _ROUNDING,
        _MEAN,
        "a patient with a plain and a contrast CT in the datalist counts twice; the challenge scores one "
        "prediction per patient",
    ),
    open_rules=(
        "the organisers' references are in a folder of cropped labels; how they are cropped is not published",
    ),
)

_MSD = (
    ("Task03_Liver", 7.0, "liver", ("liver tumor",)),
    ("Task03_Liver", 7.0, "liver tumor", ()),
    ("Task06_Lung", 2.0, "lung tumor", ()),
    ("Task07_Pancreas", 5.0, "pancreas", ("pancreas tumor",)),
    ("Task07_Pancreas", 5.0, "pancreas tumor", ()),
    ("Task08_HepaticVessel", 3.0, "hepatic vessels", ()),
    ("Task08_HepaticVessel", 3.0, "liver tumor", ()),
    ("Task09_Spleen", 3.0, "spleen", ()),
    ("Task10_Colon", 4.0, "colon tumor", ()),
)

MSD = Preset(
    name="msd",
    title="Medical Segmentation Decathlon",
    source="Antonelli et al., Nature Communications 13:4128, 2022, and http://medicaldecathlon.com",
    metrics=("dice", "surface_dice"),
    classes=tuple(
        ScoringClass(
            name=f"{task}: {prompt}", group=task, prompts=(prompt,), without=without, tolerance=tolerance
        )
        for task, tolerance, prompt, without in _MSD
    ),
    both_empty=_ONE,
    one_empty=_ZERO,
    one_group_per_case=True,
    rules=("one tolerance per task", _SURFACES, _MEAN),
    open_rules=(
        "the evaluation code of the organisers is not public: the tolerances are those of a survey of "
        "published descriptions and were not read at the source",
        "an organ is scored without its tumour, like the label values of the task; whether the organisers "
        "merge them is not established",
        "two empty masks score 1 and one empty mask 0; the organisers' values are not established",
    ),
)

_WORD = (
    "liver",
    "spleen",
    "left kidney",
    "right kidney",
    "stomach",
    "gallbladder",
    "esophagus",
    "pancreas",
    "duodenum",
    "colon",
    "intestine",
    "adrenal gland",
    "rectum",
    "urinary bladder",
    "left femoral head",
    "right femoral head",
)

WORD = Preset(
    name="word",
    title="WORD",
    source="https://github.com/HiLab-git/WORD (word_metrics_computing.py)",
    metrics=("dice", "hd95_mm"),
    classes=tuple(ScoringClass(name=prompt, group="WORD", prompts=(prompt,)) for prompt in _WORD),
    both_empty=EmptyRule(dice=0.0, hd95_mm=50.0),
    one_empty=EmptyRule(dice=0.0, hd95_mm=50.0),
    rules=(
        "HD95 is the 95th percentile of the distances of both surfaces together (MedPy), not the larger of "
        "two percentiles; surfaces are voxels with a background voxel at a face",
        "the organisers exchange the spacings of the two in-plane axes, which are equal in WORD; each axis "
        "has its own spacing here",
        _MEAN,
    ),
)

PRESETS: dict[str, Preset] = {p.name: p for p in (KITS23, MSD, SEGRAP2023, FLARE22, WORD)}
"""All presets by name."""
