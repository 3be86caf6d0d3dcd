"""Pretraining for two epochs on one tiny case, in a deterministic order of sums."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch

from gcis_train.data.datalist import group_cases, read_datalist
from gcis_train.options.training import TrainOptions
from gcis_train.training import stages
from gcis_train.training.stages import Material
from gcis_train.training.trainer import Outcome
from tests.support.training_values import PROMPTS, Silent, options, write_cases

CPU = torch.device("cpu")
RUN = options(max_epochs=2)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Make sums reproducible: with two threads torch adds up the position bias gradients in any order."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def make_material(folder: Path, *, same: bool = False) -> Material:
    path = folder / "datalist.json"
    rows = read_datalist(path if path.exists() else write_cases(folder, 1, validation=1))
    embeddings = torch.randn(1 if same else 2, 512, generator=torch.Generator().manual_seed(4))
    return Material(
        training=group_cases(rows.training, folder=folder),
        validation=group_cases(rows.validation, folder=folder),
        prompts=PROMPTS,
        embeddings=embeddings.expand(2, 512),
        text_weights="random (seed 0)",
    )


def pretrain(
    folder: Path,
    run_dir: Path,
    run: TrainOptions,
    *,
    resume: bool = False,
    same: bool = False,
    pretrained: Path | None = None,
    progress: Silent | None = None,
) -> Outcome:
    return stages.pretrain(
        dataclasses.replace(make_material(folder, same=same), validation=()),
        run,
        run_dir,
        pretrained=pretrained,
        resume=resume,
        device=CPU,
        progress=progress or Silent(),  # type: ignore[arg-type]
    )
