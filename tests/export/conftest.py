"""Build networks and graphs once per session, because an export takes seconds."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import onnx
import pytest
import torch
from filelock import FileLock

from gcis_export.graph.network import ExportNet
from gcis_export.graph.write import to_onnx
from gcis_train.weights.checkpoint import Checkpoint
from tests.support.export_cases import ROI, Case, load_case, write_checkpoint


@dataclasses.dataclass(frozen=True, eq=False)
class Built:
    """A conformance case with its export model, the logits (B, prompts, ...) and the ONNX file."""

    case: Case
    export_model: ExportNet
    logits: torch.Tensor
    model: onnx.ModelProto
    file: Path


CASES = [
    pytest.param("small", marks=pytest.mark.slow),
    "two_pathways",
    "small_v09",
    pytest.param("two_pathways_v09", marks=pytest.mark.slow),
]
"""Both kinds of patch merging and both numbers of prompts. An export takes 15 s, so two cases are slow."""


@pytest.fixture(scope="session", params=CASES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Each conformance case, exported."""
    case = load_case(request.param)
    export_model = ExportNet(case.static, ROI)
    with torch.no_grad():
        logits = torch.cat([export_model(window[None]) for window in case.image])
    file = _exported(export_model, request.param, tmp_path_factory)
    return Built(case=case, export_model=export_model, logits=logits, model=onnx.load(file), file=file)


def _exported(export_model: ExportNet, name: str, factory: pytest.TempPathFactory) -> Path:
    """Return the ONNX file of a case, written by the first test process that needs it."""
    base = factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "graphs"
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.onnx"
    with FileLock(folder / f"{name}.lock"):
        if not file.exists():
            file.write_bytes(to_onnx(export_model).SerializeToString(deterministic=True))
    return file


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A routed checkpoint with random weights."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")
