"""Everything outside the network, against MONAI's transforms and sliding window around the same predictor."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.big_volume import write_big_volume
from benchmarks.environment import environment
from benchmarks.outside_pipelines import Setting
from gcis_runtime.images.nifti import read_volume
from gcis_runtime.sliding.labeller import Restore
from gcis_runtime.spec import Shape3, Triple
from gcis_runtime.system.cpus import usable_cpus


def compare(
    *,
    shape: Shape3,
    spacing: Triple,
    target: float,
    roi: int,
    cases: list[tuple[int, Restore, float]],
    repeats: int,
    folder: Path,
) -> dict[str, Any]:
    """Time both pipelines, alternating, for each number of structures and each way back.

    Args:
        shape: The file's voxels.
        spacing: The file's spacing in mm.
        target: The network's spacing in mm.
        roi: Edge of the windows.
        cases: Numbers of channels, ways back and overlaps to try.
        repeats: Runs of each pipeline; medians are compared.
        folder: For the files.

    Returns:
        The record, ready for JSON.
    """
    image = folder / "ct.nii.gz"
    write_big_volume(image, shape=shape, spacing=spacing, structures=max(n for n, _, _ in cases))
    rows = []
    for count, restore, overlap in cases:
        runs: dict[str, list[dict[str, Any]]] = {"monai": [], "gcis": []}
        for _ in range(repeats):
            for name, done in runs.items():
                setting = Setting(
                    image=str(image),
                    out=str(folder / f"{name}.nii.gz"),
                    spacing=target,
                    roi=roi,
                    overlap=overlap,
                    structures=count,
                    restore=restore,
                    threads=usable_cpus(),
                )
                done.append(_run(name, setting))
        row = {"structures": count, "restore": restore, "overlap": overlap}
        failed = [
            f"{name}: {run['failed']}" for name, done in runs.items() for run in done if "failed" in run
        ]
        rows.append(row | ({"failed": failed, "runs": runs} if failed else _row(runs, folder)))
    return {
        "what": f"outside_{target:g}mm",
        "environment": environment(),
        "voxels": list(shape),
        "spacing_mm": list(spacing),
        "file_mb": round(image.stat().st_size / 1e6, 1),
        "network_spacing_mm": target,
        "roi": roi,
        "repeats": repeats,
        "load_average": os.getloadavg()[0],
        "note": "wall and CPU seconds exclude imports and the predictor; each pipeline "
        "in its own process, alternating; on a shared machine only ratios count, of CPU time first",
        "rows": rows,
    }


def _run(name: str, setting: Setting) -> dict[str, Any]:
    """Run one pipeline in a process of its own, free to use every processor.

    Returns:
        What `run_pipeline` measured, or how it failed: MONAI's needs 11 GB for 512 x 512 x 425 voxels.
    """
    command = [sys.executable, "-m", "benchmarks", "outside-pipeline", name]
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    variables = {key: value for key, value in os.environ.items() if key not in limits}
    done = subprocess.run(
        command, input=msgspec.json.encode(setting), capture_output=True, check=False, env=variables
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["killed"]
        return {"pipeline": name, "failed": f"exit {done.returncode}: {last[0]}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _row(runs: dict[str, list[dict[str, Any]]], folder: Path) -> dict[str, Any]:
    """Compare both pipelines' medians and label maps."""
    labels = {name: read_volume(folder / f"{name}.nii.gz").array for name in runs}
    cpu = {name: statistics.median(r["cpu"] for r in done) for name, done in runs.items()}
    outside = {name: statistics.median(r["outside"] for r in done) for name, done in runs.items()}
    return {
        "times_faster": round(outside["monai"] / outside["gcis"], 2),
        "times_faster_cpu": round(cpu["monai"] / cpu["gcis"], 2),
        "share": round(outside["gcis"] / outside["monai"], 3),
        "labels_equal": float(np.mean(labels["gcis"] == labels["monai"])),
        "labelled_share": float(np.mean(labels["monai"] > 0)),
        "runs": runs,
    }
