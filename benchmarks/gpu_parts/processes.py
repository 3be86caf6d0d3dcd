"""Run gcis-run as a process: its time from file to file, and its exit codes in repeated runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.bundle_copy import copy_bundle
from benchmarks.gpu_parts.context import Context
from benchmarks.gpu_parts.packages import found
from benchmarks.gpu_parts.state import NotHereError, Result
from gcis_runtime.spec import Shape3

WIDE = "whole.gcis"
"""Bundle of the end-to-end section in the folder of `--prepare`."""
_SMALL = (256, 256, 128)
"""Shape of the CT of the repeated processes; with toy sizes that of the section."""


def whole_process(context: Context, spacing: float) -> Result:
    """Run gcis-run with its defaults from file to file twice; the second process is reported.

    Args:
        context: Device, sizes and bundle.
        spacing: Voxel size of the network in mm.

    Raises:
        NotHereError: A package or the bundle is missing.
        RuntimeError: gcis-run failed; the message has its last line.
    """
    require_packages(context)
    bundle, image = wide_bundle(context, spacing), ct_file(context, context.sizes.volume)
    first, second = (_gcis_run(context, bundle, image) for _ in range(2))
    return second | {"first_seconds": first["seconds"]}


def exit_codes(context: Context, precision: str) -> Result:
    """Run gcis-run several times and count exit codes other than 0.

    Args:
        context: Device, sizes and bundle.
        precision: `"fp32"` or `"fp16"`.

    Raises:
        NotHereError: A package or the bundle is missing.
    """
    require_packages(context)
    bundle = wide_bundle(context, next(iter(context.sizes.grids)))
    image = ct_file(context, context.sizes.volume if context.rig.tiny else _SMALL)
    runs = []
    for _ in range(context.sizes.processes):
        done = _started(context, bundle, image, "--precision", precision)
        runs.append({"code": done.returncode, "stderr_lines": len(done.stderr.splitlines())})
    codes = [run["code"] for run in runs]
    return {"ok": not any(codes), "exit_codes": codes, "stderr_lines": [run["stderr_lines"] for run in runs]}


def trial_of_settings(context: Context, spacing: float) -> Result:
    """Measure settings of ONNX Runtime with gcis-bundle, then time gcis-run, which uses the fastest.

    Args:
        context: Device, sizes and bundle.
        spacing: Voxel size of the network in mm.

    Raises:
        NotHereError: A package or the bundle is missing.
        RuntimeError: A process failed; the message has its last line.
    """
    require_packages(context)
    bundle, image = wide_bundle(context, spacing), ct_file(context, context.sizes.volume)
    began = time.perf_counter()
    words = ("verify", str(bundle), "--device", context.rig.device.type, "--trial", "--json")
    done = _process(context, "gcis_runtime.cli.bundle", *words)
    seconds = time.perf_counter() - began
    if not done.stdout:
        raise RuntimeError(f"gcis-bundle ended with {done.returncode}: {_last_line(done)}")
    trial = json.loads(done.stdout)["trial"]
    return _gcis_run(context, bundle, image) | {"trial_seconds": round(seconds, 3), "trial": trial}


def require_packages(context: Context) -> None:
    """Raise if a package of gcis-run is missing.

    Raises:
        NotHereError: A package is missing; the message names it.
    """
    lacking = [name for name in ("nibabel", "click") if not found(name)]
    if context.rig.cuda and not found("cuda"):
        lacking.append("cuda-python")
    if lacking:
        raise NotHereError(f"needs {', '.join(lacking)}")


def wide_bundle(context: Context, spacing: float) -> Path:
    """Return a copy of the bundle of the end-to-end section with a voxel size.

    Raises:
        NotHereError: The bundle was not prepared.
    """
    if context.wide is None or (isinstance(context.wide, Path) and not context.wide.exists()):
        raise NotHereError(f"needs {WIDE} from --prepare in --graphs")
    folder = context.folder / f"whole-{spacing:g}mm.gcis"
    if not folder.exists():
        from gcis_runtime.bundles.store import find_bundle  # noqa: PLC0415 (after the wheelhouse)

        copy_bundle(find_bundle(context.wide, ()), folder, spacing=spacing)
    return folder


def ct_file(context: Context, shape: Shape3) -> Path:
    """Return a CT file of a shape, written on first use."""
    from benchmarks.tiling import write_tiled  # noqa: PLC0415 (needs nibabel)

    file = context.folder / f"ct-{'x'.join(map(str, shape))}.nii.gz"
    if not file.exists():
        write_tiled(file, shape, context.sizes.voxel)
    return file


def _gcis_run(context: Context, bundle: Path, image: Path) -> dict[str, Any]:
    began = time.perf_counter()
    done = _started(context, bundle, image, "--json")
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"gcis-run ended with {done.returncode}: {_last_line(done)}")
    (report,) = json.loads(done.stdout)["results"]
    return {
        "seconds": round(seconds, 3),
        "stages": report["seconds"],
        "engine": report["engine"],
        "windows": report["windows"],
        "stderr_lines": len(done.stderr.splitlines()),
    }


def _started(context: Context, bundle: Path, image: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run gcis-run in a new process."""
    files = (str(image), "--bundle", str(bundle), "-o", f"{context.folder / 'process'}/")
    return _process(context, "gcis_runtime", *files, "--device", context.rig.device.type, *words)


def _process(context: Context, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a module in a new process that finds the packages of this one."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "GCIS_HOME": str(context.folder / "home"),
    }
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or ["no message"])[-1]
