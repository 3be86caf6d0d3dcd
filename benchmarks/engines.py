"""Starting OpenVINO with and without its cached model, and building TensorRT-RTX engines without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.engines.tensorrt.build import BuildSettings, build
from gcis_runtime.engines.tensorrt.family import TRT_RTX

_START = (
    "import json, sys, time\n"
    "from gcis_runtime.bundles.bundle import open_bundle\n"
    "from gcis_runtime.engines.factory import open_session\n"
    "from gcis_runtime.system.memory import peak_memory_bytes\n"
    "bundle = open_bundle(sys.argv[1])\n"
    "start = time.perf_counter()\n"
    "session = open_session(bundle, engine='openvino', precision=sys.argv[2])\n"
    "print(json.dumps({'seconds': time.perf_counter() - start, 'precision': session.precision,\n"
    "    'peak_mib': (peak_memory_bytes() or 0) / 2**20}))\n"
)


def measure(bundle: str, *, rounds: int) -> dict[str, Any]:
    """Time starts and builds.

    Args:
        bundle: The bundle.
        rounds: Pairs of a first and a second start, each in a process and a cache of its own.

    Returns:
        The record, ready for JSON.
    """
    folder = find_bundle(bundle)
    return {
        "what": "engines",
        "environment": environment(),
        "bundle": open_bundle(folder).name,
        "openvino_start": {p: _starts(folder, p, rounds) for p in ("fp32", "bf16")},
        "tensorrt_rtx": _builds(folder),
    }


def _starts(folder: Path, precision: str, rounds: int) -> dict[str, Any]:
    """Start twice with a cache of its own; the second start finds what the first kept."""
    first, second, size = [], [], 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as home:
            runs = [_start(folder, precision, home) for _ in range(2)]
            if None in runs:
                return {"unavailable": f"no {precision} on this processor"}
            first.append(runs[0])
            second.append(runs[1])
            size = sum(file.stat().st_size for file in Path(home).rglob("*.bin"))
    return {
        "first_seconds": _median(first, "seconds"),
        "second_seconds": _median(second, "seconds"),
        "first_peak_mib": _median(first, "peak_mib"),
        "second_peak_mib": _median(second, "peak_mib"),
        "cached_bytes": size,
        "rounds": rounds,
    }


def _start(folder: Path, precision: str, home: str) -> dict[str, Any] | None:
    """Open a session in a process of its own; None where it cannot be had."""
    command = [sys.executable, "-c", _START, str(folder), precision]
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "GCIS_HOME": home}
    )
    if run.returncode:
        return None
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def _builds(folder: Path) -> list[dict[str, Any]]:
    """Build each graph of the bundle, portable and for one GPU."""
    if importlib.util.find_spec(TRT_RTX.builder) is None:
        return [{"unavailable": "tensorrt-rtx is not installed"}]
    bundle, rows = open_bundle(folder), []
    for graph in bundle.manifest.graphs:
        for capabilities in ((), ((8, 9),)):
            data = bundle.file(graph.file).read_bytes()
            made = build(TRT_RTX, data, BuildSettings(capabilities=capabilities))
            rows.append(
                {
                    "graph": graph.file,
                    "device": made.device,
                    "version": made.version,
                    "precision": made.precision,
                    "precision_read_from": made.settings["precision_read_from"],
                    "seconds": round(made.seconds, 1),
                    "bytes": len(made.plan),
                }
            )
    return rows


def _median(runs: list[Any], field: str) -> float:
    return round(float(statistics.median(run[field] for run in runs)), 2)
