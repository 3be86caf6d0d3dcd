"""Pretrain for two epochs on one tiny case, with a deterministic order of sums."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gcis_train.data.datalist import group_cases, read_datalist
from gcis_train.options.training import TrainOptions
from gcis_train.training import pretrain as training
from gcis_train.training.loop.trainer import Outcome
from gcis_train.training.material import Cases, Material
from gcis_train.training.run import Run
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
        cases=Cases(
            training=group_cases(rows.training, folder=folder),
            validation=group_cases(rows.validation, folder=folder),
            prompts=PROMPTS,
        ),
        embeddings=embeddings.expand(2, 512),
        text_weights="random (seed 0)",
    )


def make_run(run: TrainOptions, run_dir: Path, progress: Silent | None = None, **changes: Any) -> Run:
    return Run(options=run, run_dir=run_dir, device=CPU, progress=progress or Silent(), **changes)  # type: ignore[arg-type]


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
    material = make_material(folder, same=same)
    material = dataclasses.replace(material, cases=dataclasses.replace(material.cases, validation=()))
    return training.pretrain(material, make_run(run, run_dir, progress, resume=resume, pretrained=pretrained))
