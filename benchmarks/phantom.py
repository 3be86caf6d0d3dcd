"""The first comparison: `gcis-run` against the routed network in PyTorch, on one phantom, in one run."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.environment import environment
from benchmarks.recover import recovered, seeded_embeddings
from gcis_runtime import read_volume
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.errors import GcisError
from gcis_runtime.runs.phantom import write_phantom
from gcis_runtime.sliding.labeller import DEFAULT_RESTORE
from gcis_runtime.system.cpus import usable_cpus
from gcis_train.evaluation.reference import reference_labels
from gcis_train.metrics import dice
from gcis_train.nets.config import NetworkConfig
from gcis_train.weights import checkpoint
from gcis_train.weights.upcycle import upcycle


def compare(
    checkpoint_path: Path | None, bundle: str, *, seed: int, repeats: int, folder: Path
) -> dict[str, Any]:
    """Time both pipelines from file to label map and compare what they find.

    Args:
        checkpoint_path: The routed checkpoint that the bundle was exported from; None takes its network out
            of the bundle, with other routers to the same pathways.
        bundle: The bundle.
        seed: Phantom.
        repeats: Timed runs of `gcis-run` of each precision (medians are kept); PyTorch runs once.
        folder: For the phantom's files and the label maps.

    Returns:
        The record, ready for JSON.
    """
    image, truth_file = write_phantom(seed, folder)
    truth = np.asanyarray(nib.load(truth_file).dataobj)
    torch.set_num_threads(usable_cpus())
    reference = _pytorch(checkpoint_path, bundle, image, truth)
    rows = [reference["row"]]
    for precision in ("fp32", "bf16"):
        try:
            row, labels = _lean(bundle, image, truth, precision=precision, repeats=repeats, folder=folder)
        except (GcisError, subprocess.CalledProcessError) as error:
            rows.append({"pipeline": f"gcis-run {precision}", "unavailable": str(error)})
            continue
        row["labels_equal"] = float((labels == reference["labels"]).mean())
        row["speedup"] = round(reference["row"]["seconds"] / row["seconds"], 2)
        rows.append(row)
    return {
        "what": "phantom",
        "environment": environment(),
        "phantom_seed": seed,
        "voxels": list(truth.shape),
        "repeats": repeats,
        "rows": rows,
    }


def _pytorch(path: Path | None, bundle: str, image: Path, truth: npt.NDArray[Any]) -> dict[str, Any]:
    """Run the routed network once a prompt, as it is called: image and embedding in, two logits out."""
    opened = open_bundle(find_bundle(bundle))
    manifest = opened.manifest
    if path is None:
        table = seeded_embeddings(len(manifest.labels), NetworkConfig().text_dim)
        net, embeddings = upcycle(recovered(opened), table).eval(), list(table)
    else:
        found = checkpoint.load(path)
        net = found.routed()
        embeddings = [found.embedding(label.prompt) for label in manifest.labels]

    def margins(window: Tensor) -> Tensor:
        logits = [net(window, embedding) for embedding in embeddings]
        return torch.cat([x[:, 1:2] - x[:, 0:1] for x in logits], dim=1)

    started = time.perf_counter()
    channels = reference_labels(
        image, margins, preprocess=manifest.preprocess, window=manifest.window, restore=DEFAULT_RESTORE
    )
    seconds = time.perf_counter() - started
    values = np.array([0, *(label.value for label in manifest.labels)], np.uint8)
    labels = values[channels]
    row = {
        "pipeline": "routed network, PyTorch fp32, MONAI sliding window, one pass a prompt",
        "seconds": round(seconds, 3),
        "dice": _dice(labels, truth, values),
    }
    return {"row": row, "labels": labels}


def _lean(
    bundle: str, image: Path, truth: npt.NDArray[Any], *, precision: str, repeats: int, folder: Path
) -> tuple[dict[str, Any], npt.NDArray[Any]]:
    """Run `gcis-run` in processes of its own: wall time with start-up, and the stages that it reports."""
    out = folder / f"labels_{precision}.nii.gz"
    command = [
        sys.executable,
        "-m",
        "gcis_runtime.cli.run",
        str(image),
        "--bundle",
        bundle,
        "--json",
        "-o",
        str(out),
    ]
    command += ["--engine", "openvino", "--precision", precision]
    walls, reports = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        walls.append(time.perf_counter() - started)
        reports.append(json.loads(done.stdout)["results"][0])
    labels = read_volume(out).array.astype(np.uint8)
    values = np.unique(truth)
    middle = reports[walls.index(statistics.median_low(walls))]
    row = {
        "pipeline": f"gcis-run, OpenVINO {precision}, whole process",
        "seconds": round(statistics.median(walls), 3),
        "seconds_all": [round(w, 3) for w in walls],
        "stages": middle["seconds"],
        "peak_memory_mb": round((middle["peak_memory_bytes"] or 0) / 1e6),
        "dice": _dice(labels, truth, values),
    }
    return row, labels


def _dice(labels: npt.NDArray[Any], truth: npt.NDArray[Any], values: npt.NDArray[Any]) -> float:
    """Mean Dice over the structures that the truth has."""
    scores = [dice(labels == v, truth == v) for v in values if v and (truth == v).any()]
    return round(float(np.mean(scores)), 4)
