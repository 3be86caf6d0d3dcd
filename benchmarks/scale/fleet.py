"""Compare a Ray cluster and shards with a cohort in one process: seconds and CPU time of the same images.

The ways run in turns, so that the load of the machine affects all of them, and each at two numbers of images:
the difference is the cost of further images, the rest that of the start.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.scale.plan import copies
from benchmarks.tiling import write_tiled
from gcis_runtime.latency.environment import environment
from gcis_runtime.spec import Shape3, Triple

WAYS = ("one process", "two shards", "ray")
WORKERS = 2
SHAPE: Shape3 = (112, 112, 96)
VOXEL: Triple = (2.5, 2.5, 2.5)
ASSUMPTIONS = (
    "Measured are two workers with one CPU each on one machine. More workers are assumed to cost as much "
    "each.",
    "More nodes are assumed to be like this machine, with files on storage that is not the limit.",
    "Hours of a cohort are then the start of a run, plus scans times CPU seconds per scan, divided by the "
    "workers.",
    "Scans of other sizes take the seconds of the table above this one.",
    "No worker is lost. Each loss repeats at most two scans.",
)
"""Assumptions for other numbers of workers and scans."""
_MEASURED = ("seconds", "cpu_seconds")
_TICK = os.sysconf("SC_CLK_TCK")


def measure_fleet(
    bundle: str,
    address: str,
    folder: Path,
    *,
    images: tuple[int, int],
    rounds: int,
    engine: str,
    on_step: Callable[[str], None],
) -> dict[str, Any]:
    """Return a record with one row per way and number of images.

    Args:
        bundle: Bundle.
        address: Address of a Ray cluster with two CPUs, whose workers run on this machine.
        folder: Folder for images and results.
        images: Numbers of images.
        rounds: Rounds; every way runs once per round.
        engine: Engine.
        on_step: Called with a line before each run.

    Raises:
        RuntimeError: A run failed.
    """  # fmt: skip
    image = folder / "ct.nii.gz"
    if not image.exists():
        write_tiled(image, SHAPE, VOXEL)
    files = copies(image, max(images))
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    for number in range(rounds):
        for way in WAYS:
            for count in images:
                on_step(f"round {number + 1} of {rounds}: {way}, {count} images")
                words = [*map(str, files[:count]), "--bundle", bundle, "--engine", engine, "--threads", "1"]
                runs.setdefault((way, count), []).append(_run(way, words, address, folder / "out"))
    rows = [
        {"way": way, "images": count, "runs": found}
        | {name: round(statistics.median(run[name] for run in found), 2) for name in _MEASURED}
        for (way, count), found in runs.items()
    ]
    return {
        "what": "fleet",
        "environment": environment(),
        "bundle": bundle,
        "engine": engine,
        "voxels": list(SHAPE),
        "voxel_mm": list(VOXEL),
        "rounds": rounds,
        "load": [round(value, 1) for value in os.getloadavg()],
        "rows": rows,
        "per_image": [_per_image(way, rows) for way in WAYS],
        "assumptions": list(ASSUMPTIONS),
    }


def _per_image(way: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the cost of one more image, and of the start: the line through both numbers of images."""
    few, many = sorted((row for row in rows if row["way"] == way), key=lambda row: row["images"])
    found: dict[str, Any] = {"way": way}
    for name in _MEASURED:
        slope = (many[name] - few[name]) / (many["images"] - few["images"])
        found[f"{name}_per_image"] = round(slope, 3)
        found[f"{name}_of_start"] = round(few[name] - slope * few["images"], 3)
    return found


def _run(way: str, words: list[str], address: str, out: Path) -> dict[str, float]:
    """Run a cohort, and return its seconds and the CPU seconds of its processes."""
    shutil.rmtree(out, ignore_errors=True)
    ways: dict[str, list[list[str]]] = {
        "one process": [[]],
        "two shards": [["--shard", f"{n}/{WORKERS}"] for n in range(1, WORKERS + 1)],
        "ray": [["--ray", address]],
    }
    before, begun = _children(), time.perf_counter()
    command = [sys.executable, "-m", "gcis_runtime.cli.run", *words, "-o", f"{out}/"]
    started = [
        subprocess.Popen([*command, *part], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for part in ways[way]
    ]
    workers: dict[int, float] = {}
    while any(process.poll() is None for process in started):
        if way == "ray":
            workers |= _worker_seconds()
        time.sleep(0.05)
    seconds = time.perf_counter() - begun
    for process in started:
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{way}: {errors.decode(errors='replace')[-500:]}")
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(_children() - before + sum(workers.values()), 3),
    }


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _worker_seconds() -> dict[int, float]:
    """Return the CPU seconds of each Ray worker of gCIS on this machine, by process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes().startswith(b"ray::Worker"):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    found[int(entry.name)] = (int(fields[11]) + int(fields[12])) / _TICK
            except OSError:
                continue  # it has ended
    return found
