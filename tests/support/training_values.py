"""Create small volumes, embeddings, batches and options for the training tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor, nn

from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_train.data.volumes import CaseVolume
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet
from gcis_train.options.training import AugmentSpec, TrainOptions
from gcis_train.training.objectives import Batch
from tests.support import recipe as RECIPE  # noqa: N812

CONFORMANCE = Path(__file__).parents[1] / "data" / "conformance"
ROI = (64, 64, 64)
RAS = np.diag([2.0, 2.0, 2.0, 1.0])
PROMPTS = ("left ball", "right ball")


@dataclass(frozen=True)
class ConformanceCase:
    """Golden numbers of a published network, and a `GcisNet` with its weights."""

    info: dict[str, Any]
    answers: dict[str, np.ndarray]
    net: GcisNet
    image: torch.Tensor

    def embedding(self, index: int) -> torch.Tensor:
        return torch.from_numpy(RECIPE.prompt_embedding(index, self.info["seed"]))


def options(**changes: Any) -> TrainOptions:
    """Return options of a tiny run: no augmentation, no mixed precision, one window per case."""
    still = AugmentSpec(flip=(0, 0, 0), rotate90=0, intensity_scale=0, intensity_shift=0)
    settings: dict[str, Any] = {
        "network": NetworkConfig(feature_size=12, pathways=2),
        "preprocess": PreprocessSpec(orientation="RAS", spacing=(2.0, 2.0, 2.0)),
        "window": WindowSpec(patch_size=ROI, overlap=0.25),
        "augment": still,
        "windows_per_case": 1,
        "max_epochs": 2,
        "warmup_epochs": 0.5,
        "learning_rate": 1e-3,
        "amp": "none",
        "validate_every": 100,
        "text_weights": "random",
    }
    return TrainOptions(**{**settings, **changes})


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = RAS) -> Path:
    """Write an array as NIfTI with the affine as sform and qform."""
    image = nib.Nifti1Image(array, affine)
    nib.save(image, path)
    return path


def ball_case(shape: tuple[int, int, int] = (40, 36, 32), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return HU and labels of two adjacent balls: label 1 at high X, 2 at low X."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    hu = (-200 + 20 * rng.standard_normal(shape)).astype(np.int16)
    labels = np.zeros(shape, np.uint8)
    for value, centre in ((1, 0.75), (2, 0.25)):
        ball = (x - centre * shape[0]) ** 2 + (y - shape[1] / 2) ** 2 + (z - shape[2] / 2) ** 2 < 36
        hu[ball] += 300
        labels[ball] = value
    return hu, labels


def write_cases(folder: Path, count: int, *, validation: int = 0) -> Path:
    """Write ball cases and their datalist."""
    lists: dict[str, list[dict[str, Any]]] = {"training": [], "validation": []}
    for index in range(count + validation):
        hu, labels = ball_case(seed=index)
        write_nifti(folder / f"ct{index}.nii.gz", hu)
        write_nifti(folder / f"seg{index}.nii.gz", labels)
        for value, prompt in enumerate(PROMPTS, start=1):
            row = {"image": f"ct{index}.nii.gz", "label": f"seg{index}.nii.gz", "prompt": prompt}
            lists["training" if index < count else "validation"].append({**row, "label_value": value})
    path = folder / "datalist.json"
    path.write_text(json.dumps(lists))
    return path


def volume(
    masks: dict[str, np.ndarray], *, image: np.ndarray | None = None, left_right: int = 0
) -> CaseVolume:
    """Return a case with the given (disjoint) masks; the image is 1 at labels, else 0.1."""
    labels = np.zeros(next(iter(masks.values())).shape, np.uint8)
    for index, mask in enumerate(masks.values()):
        labels[mask] = index + 1
    if image is None:
        image = np.where(labels > 0, 1.0, 0.1)
    return CaseVolume(
        name="test case",
        image=image.astype(np.float16),
        labels=labels,
        prompts=tuple(masks),
        left_right=left_right,
        overlaps={},
    )


def batch(roi: tuple[int, int, int], prompts: tuple[tuple[str, ...], ...], seed: int = 0) -> Batch:
    """Return random windows with random masks."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((len(prompts), 1, *roi), generator=generator)
    masks = tuple((torch.rand((len(p), *roi), generator=generator) > 0.7).to(torch.float32) for p in prompts)
    return Batch(
        names=tuple(f"case {i}" for i in range(len(prompts))),
        images=images,
        masks=masks,
        prompts=prompts,
        seeds=tuple(range(100 * seed, 100 * seed + len(prompts))),
    )


class Silent:
    """A progress display that stores its messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.losses: list[float | None] = []

    def step(self, *, epoch: int, step: int, steps: int, loss: float | None) -> None:
        self.losses.append(loss)

    def epoch(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def log(self, text: str) -> None:
        self.lines.append(text)


def equal_states(a: nn.Module | dict[str, Tensor], b: nn.Module | dict[str, Tensor]) -> bool:
    """Return whether two states have the same names and identical values."""
    one = a.state_dict() if isinstance(a, nn.Module) else a
    two = b.state_dict() if isinstance(b, nn.Module) else b
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)
