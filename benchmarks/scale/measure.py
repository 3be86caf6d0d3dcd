"""Measure the cost of a run against volume, overlap, prompts, threads, images and processes.

Each run is a separate process, from the start of the interpreter to the last file, with the pipeline of
`gcis-run`. Along an axis one value changes, and the others are those of the base case.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.bundle_copy import copy_bundle
from benchmarks.scale.fits import fit
from benchmarks.scale.plan import Axis, Plan, copies
from benchmarks.scale.run import Work
from benchmarks.tiling import write_tiled
from benchmarks.wide_bundle import write_wide_bundle
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.errors import EngineError
from gcis_runtime.latency.environment import environment
from gcis_runtime.spec import Shape3
from gcis_runtime.system.cpus import usable_cpus

OnStep = Callable[[str], None]
_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

FITS: dict[Axis, tuple[tuple[str, str], ...]] = {
    "volume": (
        ("megavoxels", "seconds"),
        ("megavoxels", "peak_memory_mb"),
        ("windows_computed", "cases_seconds"),
    ),
    "overlap": (("windows_computed", "cases_seconds"), ("windows_computed", "peak_memory_mb")),
    "prompts": (("prompts", "cases_seconds"), ("prompts", "peak_memory_mb")),
    "threads": (("one_over_threads", "cases_seconds"), ("threads", "peak_memory_mb")),
    "cohort": (("cases", "seconds"), ("cases", "peak_memory_mb")),
    "workers": (("workers", "cases_per_hour"), ("workers", "peak_memory_mb")),
}
"""Lines fitted along each axis; x and y are columns of the rows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings of all runs.

    Attributes:
        bundle: Folder or name of the bundle.
        spacing: Voxel size of the network's grid in mm; None keeps that of the bundle.
        engine: Engine of the runtime.
        precision: Precision of the engine.
        repeats: Runs of each row; the run with the median time is kept.
        folder: Folder of volumes, bundles and label maps; files of an earlier run are reused.
    """

    bundle: str
    spacing: float | None
    engine: str
    precision: str
    repeats: int
    folder: Path


def measure(plan: Plan, axes: Sequence[Axis], setting: Setting, *, on_step: OnStep) -> dict[str, Any]:
    """Measure along every axis.

    Args:
        plan: Values along each axis, and the base case.
        axes: Axes to measure.
        setting: Settings of all runs.
        on_step: Called with a line of text per row.

    Returns:
        Record, ready for JSON.
    """
    where = environment()
    rows: dict[Axis, list[dict[str, Any]]] = {}
    for axis in axes:
        rows[axis] = []
        for case in _cases(axis, plan, setting):
            row = _row(case, setting)
            rows[axis].append(row)
            on_step(f"{axis}: {_text(row)}")
    return {
        "what": "scale",
        "environment": where,
        "bundle": setting.bundle,
        "network_spacing_mm": setting.spacing,
        "voxel_mm": list(plan.voxel),
        "repeats": setting.repeats,
        "note": "seconds: a whole process, whose engine was compiled at an earlier start; cases_seconds: the "
        "same from the open engine on. Volumes are tiled from a phantom, so that hardly any window is air: "
        "the most expensive case",
        "load_average": os.getloadavg()[0],
        "rows": rows,
        "fits": {axis: fits(axis, found) for axis, found in rows.items()},
    }


def fits(axis: Axis, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the fitted lines of an axis, ready for JSON; a line needs two different x."""
    return [
        {"x": x, "y": y, **dataclasses.asdict(fit([row[x] for row in rows], [row[y] for row in rows]))}
        for x, y in FITS[axis]
        if len({row[x] for row in rows}) > 1
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Case:
    shape: Shape3
    bundle: Path
    prompts: int
    overlap: float
    threads: int
    workers: int = 1
    cases: int = 1
    voxel: tuple[float, float, float]


def _cases(axis: Axis, plan: Plan, setting: Setting) -> list[_Case]:
    """Return the runs of an axis, and write their bundles."""
    cpus = usable_cpus()
    bundle, overlap, prompts = _bundle(setting)
    base = _Case(
        shape=plan.base, bundle=bundle, prompts=prompts, overlap=overlap, threads=cpus, voxel=plan.voxel
    )
    change = dataclasses.replace
    if axis == "volume":
        return [change(base, shape=shape) for shape in plan.volumes]
    if axis == "overlap":
        return [change(base, bundle=_bundle(setting, overlap=o)[0], overlap=o) for o in plan.overlaps]
    if axis == "prompts":
        return [change(base, bundle=_bundle(setting, prompts=n)[0], prompts=n) for n in plan.prompts]
    if axis == "threads":
        return [change(base, threads=threads) for threads in plan.threads]
    if axis == "cohort":
        return [change(base, cases=count) for count in plan.cohorts]
    return [
        change(base, workers=n, cases=n * plan.worker_cases, threads=max(1, cpus // n)) for n in plan.workers
    ]


def _bundle(
    setting: Setting, *, overlap: float | None = None, prompts: int | None = None
) -> tuple[Path, float, int]:
    """Return the folder, the overlap and the number of prompts of a bundle for a row."""
    name = f"{prompts or 'given'}_{overlap}_{setting.spacing}.gcis"
    folder = setting.folder / name
    if not folder.exists():
        source = find_bundle(setting.bundle, ())
        if prompts is not None:
            source = setting.folder / f"wide_{prompts}.gcis"
            if not source.exists():
                write_wide_bundle(source, prompts=prompts)
        copy_bundle(source, folder, spacing=setting.spacing or _spacing(setting.bundle), overlap=overlap)
    manifest = open_bundle(folder).manifest
    return folder, manifest.window.overlap, len(manifest.labels)


def _spacing(bundle: str) -> float | None:
    """Return the voxel size of a bundle along X in mm, for bundles with other prompts."""
    spacing = open_bundle(find_bundle(bundle, ())).manifest.preprocess.spacing
    return None if spacing is None else spacing[0]


def _row(case: _Case, setting: Setting) -> dict[str, Any]:
    """Run a case `repeats` times and return the run with the median time."""
    image = setting.folder / f"{'x'.join(map(str, case.shape))}_{case.voxel[0]:g}.nii.gz"
    if not image.exists():
        write_tiled(image, case.shape, case.voxel)
    _process(_work(case, (), setting))  # the first start of an engine compiles and caches it
    runs = sorted(
        (_processes(case, image, setting) for _ in range(setting.repeats)), key=lambda r: r["seconds"]
    )
    chosen = runs[(len(runs) - 1) // 2]
    return {
        "shape": list(case.shape),
        "megavoxels": round(case.shape[0] * case.shape[1] * case.shape[2] / 1e6, 3),
        "overlap": case.overlap,
        "prompts": case.prompts,
        "threads": case.threads,
        "one_over_threads": 1 / case.threads,
        "workers": case.workers,
        "cases": case.cases,
        **chosen,
        "seconds_all": [run["seconds"] for run in runs],
        "cases_per_hour": round(3600 * case.cases / chosen["seconds"], 1),
    }


def _processes(case: _Case, image: Path, setting: Setting) -> dict[str, Any]:
    """Run the workers of a case side by side and combine their results."""
    shares = [copies(image, case.cases)[worker :: case.workers] for worker in range(case.workers)]
    work = [_work(case, images, setting, number) for number, images in enumerate(shares)]
    started = time.perf_counter()
    with ThreadPoolExecutor(len(work)) as pool:
        found = list(pool.map(_process, work))
    seconds = time.perf_counter() - started
    return {
        "seconds": round(seconds, 3),
        "start_seconds": round(seconds - max(f["cases_seconds"] for f in found), 3),
        "cases_seconds": max(f["cases_seconds"] for f in found),
        "cpu_seconds": round(sum(f["cpu_seconds"] for f in found), 3),
        "stages": {n: round(statistics.fmean(f["stages"][n] for f in found), 3) for n in found[0]["stages"]},
        "windows": sum(f["windows"] for f in found),
        "windows_computed": sum(f["windows_computed"] for f in found),
        "labelled_voxels": sum(f["labelled_voxels"] for f in found),
        "peak_memory_mb": sum(f["peak_memory_mb"] for f in found),
        "engine": found[0]["engine"],
    }


def _work(case: _Case, images: tuple[Path, ...], setting: Setting, number: int = 0) -> Work:
    """Return the work of one worker of a case."""
    return Work(
        images=tuple(str(image) for image in images),
        bundle=str(case.bundle),
        out=str(setting.folder / f"labels_{number}"),
        engine=setting.engine,
        precision=setting.precision,
        threads=case.threads,
    )


def _process(work: Work) -> dict[str, Any]:
    """Run one process without limits on its threads."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale.run"],
        input=msgspec.json.encode(work),
        capture_output=True,
        check=False,
        env={key: value for key, value in os.environ.items() if key not in _LIMITS},
        cwd=Path(__file__).parents[2],
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit {done.returncode}"]
        raise EngineError("a run failed", received=lines[-1], fix="Run gcis-run on the same files.")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _text(row: dict[str, Any]) -> str:
    shape = " x ".join(map(str, row["shape"]))
    return (
        f"{shape}, overlap {row['overlap']}, {row['prompts']} prompts, {row['threads']} threads, "
        f"{row['workers']} workers, {row['cases']} cases: {row['seconds']:.2f} s "
        f"({row['start_seconds']:.2f} s start), {row['windows_computed']} windows, {row['peak_memory_mb']} MB"
    )
