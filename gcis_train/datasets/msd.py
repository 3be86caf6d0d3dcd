"""Find the cases of the six CT tasks of the Medical Segmentation Decathlon.

Layout and labels: http://medicaldecathlon.com and Antonelli et al., Nature Communications 2022. Each task
is a folder such as `Task03_Liver` with a `dataset.json` that lists its training pairs and names its label
values; a folder with several tasks is read as one dataset. The labels in `dataset.json` are compared with the
table below, so that a changed release is an error instead of wrong labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from gcis_runtime.errors import DataError
from gcis_runtime.system.json_files import decode_json
from gcis_train.datasets.listing import Listing
from gcis_train.datasets.samples import Dataset, Sample, Scan, Skip, label_map

TASKS: dict[str, dict[int, tuple[str, str]]] = {
    "Task03_Liver": {1: ("liver", "liver"), 2: ("cancer", "liver tumor")},
    "Task06_Lung": {1: ("cancer", "lung tumor")},
    "Task07_Pancreas": {1: ("pancreas", "pancreas"), 2: ("cancer", "pancreas tumor")},
    "Task08_HepaticVessel": {1: ("vessel", "hepatic vessels"), 2: ("tumour", "liver tumor")},
    "Task09_Spleen": {1: ("spleen", "spleen")},
    "Task10_Colon": {1: ("colon cancer primaries", "colon tumor")},
}
"""Per CT task and label value: the name in `dataset.json` (lower case) and the prompt."""

LESIONS = {"liver tumor": "liver", "pancreas tumor": "pancreas"}


def scan(listing: Listing) -> Scan:
    """Return the cases of every CT task in the folder."""
    samples: list[Sample] = []
    skipped: list[Skip] = []
    root = listing.root.resolve()
    tasks = [root] if (root / "dataset.json").is_file() else sorted(root.glob("Task*"))
    for folder in tasks:
        if not (folder / "dataset.json").is_file():
            skipped.append(Skip(name=folder.name, reason="no dataset.json"))
        elif folder.name not in TASKS:
            skipped.append(Skip(name=folder.name, reason=f"not one of the CT tasks {', '.join(TASKS)}"))
        else:
            _scan_task(listing.root if folder == root else listing.root / folder.name, samples, skipped)
    return Scan(samples=tuple(samples), skipped=tuple(skipped))


def _scan_task(folder: Path, samples: list[Sample], skipped: list[Skip]) -> None:
    task = folder.resolve().name
    index = _read_index(folder / "dataset.json")
    known = {str(value): name for value, (name, _) in TASKS[task].items()}
    found = {v: str(n).lower() for v, n in index["labels"].items() if v != "0"}
    if found != known:
        raise DataError(
            f"{folder / 'dataset.json'} does not have the labels of the release of {task}",
            received=str(found),
            expected=str(known),
        )
    table = {value: prompt for value, (_, prompt) in TASKS[task].items()}
    for entry in index["training"]:
        image, label = folder / entry["image"], folder / entry["label"]
        name = f"{task}/{image.name.removesuffix('.nii.gz')}"
        missing = [what for what, file in (("image", image), ("label", label)) if not file.is_file()]
        if missing:
            skipped.append(Skip(name=name, reason=f"no {' and no '.join(missing)} file"))
        else:
            samples.append(Sample(name=name, image=image, masks=label_map(label, table, LESIONS)))


def _read_index(path: Path) -> dict[str, Any]:
    """Read `dataset.json`: its labels and training pairs."""
    try:
        index = decode_json(path.read_bytes(), _Index)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is not a Decathlon index", received=str(error), expected="labels and training pairs"
        ) from error
    return msgspec.structs.asdict(index)


class _Index(msgspec.Struct):
    labels: dict[str, str]
    training: list[dict[str, str]]

    def __post_init__(self) -> None:
        if not all({"image", "label"} <= set(entry) for entry in self.training):
            raise ValueError("a training entry without image and label")


DATASET = Dataset(
    kind="msd",
    title="Medical Segmentation Decathlon",
    source="http://medicaldecathlon.com",
    layout="Task03_Liver/dataset.json with imagesTr/ and labelsTr/liver_0.nii.gz, or such a task itself",
    scan=scan,
    aside=(r"imagesTs/", r"Task0[1245]_\w+/"),
)
