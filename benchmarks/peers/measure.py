"""Compare time and memory with other CT segmentation software, on the same volume and windows.

All weights are random, so accuracy is not compared. Every run is a separate process; peers take turns.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.peers.run import PEERS, Task
from benchmarks.tiling import write_tiled
from benchmarks.wide_bundle import write_wide_bundle
from gcis_runtime.images.nifti import read_volume
from gcis_runtime.latency.environment import environment
from gcis_runtime.sliding.plan import plan_windows
from gcis_runtime.spec import Shape3, WindowSpec
from gcis_runtime.system.cpus import usable_cpus

VOXEL = (1.5, 1.5, 1.5)
"""Voxel size of the volume and of the bundle's grid in mm, so that no peer resamples."""

ELSEWHERE = {
    "TotalSegmentator": (
        "totalsegmentator",
        "its interface runs only its own trained weights, which it downloads; its network and predictor are "
        "the plain U-Net of nnU-Net, with windows of 128",
    ),
}
"""Peers that cannot run with random weights: package, and the reason."""

OnStep = Callable[[str], None]


def compare(
    *,
    feature_size: int,
    roi: int,
    overlap: float,
    shape: Shape3,
    rounds: int,
    peers: Sequence[str],
    folder: Path,
    on_step: OnStep,
) -> dict[str, Any]:
    """Run every installed peer.

    Args:
        feature_size: Feature size of gCIS and SwinUNETR.
        roi: Side of the window in voxels, for all peers.
        overlap: Overlap of windows, for all peers.
        shape: Shape of the volume, voxels of 1.5 mm.
        rounds: Turns of each peer.
        peers: Names in `PEERS`.
        folder: Folder of the volume and the bundle; files of an earlier run are reused.
        on_step: Called with a line of text per run.

    Returns:
        Record, ready for JSON.
    """
    where = environment()
    missing = {
        name: lacking for name in peers if (lacking := [p for p in PEERS[name].needs if not installed(p)])
    }
    image, bundle = folder / "hu.npy", folder / f"seeded_{feature_size}_{roi}.gcis"
    _prepare(image, shape)
    if not bundle.exists():
        on_step("exporting the gCIS bundle")
        write_wide_bundle(bundle, prompts=1, feature_size=feature_size, roi=roi)
    task = Task(
        peer="",
        image=str(image),
        bundle=str(bundle),
        feature_size=feature_size,
        roi=roi,
        overlap=overlap,
        threads=usable_cpus(),
    )
    found = _in_turns([name for name in peers if name not in missing], task, rounds, on_step)
    return {
        "what": f"peers-{feature_size}-{roi}",
        "environment": where,
        "feature_size": feature_size,
        "roi": roi,
        "overlap": overlap,
        "voxels": list(shape),
        "windows": len(plan_windows(shape, WindowSpec(patch_size=(roi,) * 3, overlap=overlap)).starts),
        "rounds": rounds,
        "threads": usable_cpus(),
        "note": "time and memory only: weights are random. From HU in memory to labels in memory, one "
        "structure; each run is a separate process, and peers take turns",
        "load_average": os.getloadavg()[0],
        "rows": _rows(found, missing),
    }


def _in_turns(
    peers: Sequence[str], task: Task, rounds: int, on_step: OnStep
) -> dict[str, list[dict[str, Any]]]:
    """Run the peers in turns and return the measurements of each."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, runs in found.items():
            runs.append(_process(msgspec.structs.replace(task, peer=name)))
            on_step(f"{name}: {runs[-1]}")
    return found


def _rows(found: dict[str, list[dict[str, Any]]], missing: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Return rows of the peers that ran, are not installed, or cannot be run."""
    rows = [_row(name, runs) for name, runs in found.items()]
    rows += [
        {"peer": name, "unavailable": f"not installed: {', '.join(lacking)}"}
        for name, lacking in missing.items()
    ]
    rows += [
        {"peer": name, "unavailable": why if installed(package) else f"not installed: {package}"}
        for name, (package, why) in ELSEWHERE.items()
    ]
    return rows


def installed(package: str) -> bool:
    """Return whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def _prepare(image: Path, shape: Shape3) -> None:
    """Write the volume as a NumPy array of HU, (X, Y, Z)."""
    file = image.with_name("ct.nii.gz")
    write_tiled(file, shape, VOXEL)
    np.save(image, read_volume(file).array)


def _process(task: Task) -> dict[str, Any]:
    """Run one peer without limits on its threads; return its measurements, or its error as `failed`."""
    variables = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.run"],
        input=msgspec.json.encode(task),
        capture_output=True,
        check=False,
        env=variables,
        cwd=Path(__file__).parents[2],
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["killed"]
        return {"failed": f"exit {done.returncode}: {lines[-1]}"}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _row(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Combine the turns of a peer."""
    failed = [run["failed"] for run in runs if "failed" in run]
    if failed:
        return {"peer": name, "unavailable": failed[0]}
    return {
        "peer": name,
        "seconds": round(statistics.median(run["seconds"] for run in runs), 3),
        "seconds_all": [run["seconds"] for run in runs],
        "cpu_seconds": round(statistics.median(run["cpu_seconds"] for run in runs), 3),
        "start_seconds": round(statistics.median(run["start_seconds"] for run in runs), 3),
        "peak_memory_mb": max(run["peak_memory_mb"] for run in runs),
        "parameters": runs[0]["parameters"],
    }
