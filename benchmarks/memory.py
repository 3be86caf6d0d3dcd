"""Peak memory of `gcis-run` on a large volume, each run in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.environment import environment
from gcis_runtime.bundles.store import find_bundle

SHAPE = (512, 512, 425)
SPACING = (0.8, 0.8, 1.0)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run to measure.

    Attributes:
        structures: 7: the demo bundle's network; else that many prompts with random weights.
        spacing: The network's voxel size in mm; None leaves the bundle's.
        masks: Write each structure's mask too.
    """

    structures: int
    spacing: float | None = None
    masks: bool = False


def measure(runs: list[Run], *, engine: str, folder: Path) -> dict[str, Any]:
    """Run each in turn.

    Args:
        runs: What to run.
        engine: The runtime's engine.
        folder: For the volume, the bundles and the label maps; the volume and exported bundles that a former
            run left there are used again.

    Returns:
        The record, ready for JSON.
    """
    image = folder / "ct.nii.gz"
    # Made in other processes: a child's peak would begin at its parent's size.
    _prepare("volume", folder, {})
    rows = []
    for number, run in enumerate(runs):
        bundle = folder / f"{number}.gcis"
        _prepare("bundle", bundle, msgspec.to_builtins(run))
        rows.append(_measure(run, image, bundle, engine=engine, out=folder / f"labels_{number}.nii.gz"))
    return {
        "what": "memory",
        "environment": environment(),
        "voxels": list(SHAPE),
        "spacing_mm": list(SPACING),
        "image_mb": round(image.stat().st_size / 1e6, 1),
        "note": "peak_memory_mb: ru_maxrss of the whole gcis-run process. The body is small, so that most "
        "windows are air and reused: memory does not depend on it, time does.",
        "rows": rows,
    }


def _prepare(what: str, path: Path, setting: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "benchmarks", "memory-prepare", what, str(path)]
    subprocess.run(command, input=json.dumps(setting).encode(), check=True)


def _measure(run: Run, image: Path, bundle: Path, *, engine: str, out: Path) -> dict[str, Any]:
    """Run `gcis-run` and ask the system for its peak."""
    command = [sys.executable, "-m", "gcis_runtime.cli.run", str(image), "--bundle", str(bundle)]
    command += ["--engine", engine, "--json", "-o", str(out), *(["--masks"] if run.masks else [])]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        child = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        _, status, usage = os.wait4(child.pid, 0)
        stdout.seek(0)
        stderr.seek(0)
        row: dict[str, Any] = msgspec.to_builtins(run)
        if status != 0:
            lines = stderr.read().decode(errors="replace").strip().splitlines()
            return row | {"failed": lines[-1] if lines else f"status {status}"}
        report = json.loads(stdout.read())["results"][0]
    return row | {
        "peak_memory_mb": round(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "stages": report["seconds"],
        "engine": report["engine"],
        "windows": report["windows"],
        "labelled_voxels": sum(s["voxels"] for s in report["structures"]),
        "output_mb": round(out.stat().st_size / 1e6, 2),
    }


def prepare_volume(folder: Path) -> None:
    """Write the volume as `ct.nii.gz`, unless it is there."""
    if (folder / "ct.nii.gz").exists():
        return
    from benchmarks.big_volume import write_big_volume  # noqa: PLC0415 (only in the preparing process)

    write_big_volume(
        folder / "ct.nii.gz", shape=SHAPE, spacing=SPACING, structures=7, body=(0.3, 0.25), seed=0
    )


def prepare_bundle(path: Path, run: Run) -> None:
    """Write the bundle of a run."""
    from benchmarks.wide_bundle import copy_bundle, write_wide_bundle  # noqa: PLC0415 (as above)

    source = path.parent / f"wide_{run.structures}.gcis"
    if run.structures == 7:
        source = find_bundle("demo", ())
    elif not source.exists():
        write_wide_bundle(source, prompts=run.structures)
    shutil.rmtree(path, ignore_errors=True)
    copy_bundle(source, path, spacing=run.spacing)
