"""Count the work of a run: windows, operators, multiplications, memory and instructions.

Unlike times, these numbers do not vary between runs, so an increase over the last record is a regression.
They are equal on all machines, except for instructions, which depend on the builds of Python and numpy.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from benchmarks.conformance import Conformance
from benchmarks.counted.graphs import graph_counts, precision_counts, rewrite_steps
from benchmarks.counted.run import allocated, stream, volume
from benchmarks.graphs import seeded
from benchmarks.records import RESULTS, newest
from gcis_export.graph.network import ExportNet
from gcis_export.graph.write import to_onnx
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import MODEL_FILE
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.errors import OutputError
from gcis_runtime.latency.environment import environment
from gcis_runtime.sliding.plan import plan_windows
from gcis_runtime.spec import Shape3, WindowSpec
from gcis_train.nets.pathway import Pathway

GRIDS: tuple[Shape3, ...] = ((64, 64, 64), (130, 130, 130), (256, 256, 200), (512, 512, 425))
OVERLAPS = (0.25, 0.5, 0.75)
SEEDED = "seeded export 12/64"
"""Export of the first conformance case: feature size 12, windows of 64, three prompts, seeded weights."""
PUBLISHED = "seeded export 48/96"
"""Export of the published size: feature size 48, windows of 96, one prompt, seeded weights."""

TOLERANCES = {
    "windows": 0.0,
    "nodes": 0.02,
    "operators": 0.02,
    "casts": 0.0,
    "moved": 0.005,
    "bytes": 0.02,
    "flops": 0.005,
    "allocated": 0.03,
    "instructions": 0.05,
}
"""Tolerated increase of each kind, as a share of the record. The number of operators varies with the version
of the exporter, and allocated bytes include objects of the interpreter."""

Verdict = Literal["worse", "better", "new", "gone"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """Count that differs from the record.

    Attributes:
        name: Name of the count.
        verdict: `"worse"` or `"better"` by more than the tolerance; `"new"`: only in the new counts;
            `"gone"`: only in the record.
        then: Number in the record.
        now: New number.
    """

    name: str
    verdict: Verdict
    then: float | None
    now: float | None

    @property
    def text(self) -> str:
        """Description in one line."""
        if self.then is None or self.now is None:
            return f"{self.name}: {self.verdict}"
        share = f" ({self.now / self.then - 1:+.1%})" if self.then else ""
        return f"{self.name}: {self.verdict}, {self.then:,} in the record, {self.now:,} now{share}"


def measure() -> dict[str, Any]:
    """Count all work; instructions only if valgrind is installed.

    Returns:
        Record, ready for JSON.
    """
    found = instructions()
    large, steps = published()
    return {
        "what": "counted",
        "environment": environment(),
        "tolerances": TOLERANCES,
        "counts": counts() | large,
        "rewrites": {"graph": PUBLISHED, "steps": steps},
        "instructions": found if found is not None else {"unavailable": "valgrind is not installed"},
        "note": "counts do not depend on the machine; instructions depend on the builds of Python and numpy",
    }


def counts() -> dict[str, float]:
    """Return the counts except instructions and those of the published size by name.

    A name starts with its kind (see `TOLERANCES`).
    """
    net = Conformance("small").static
    return quick_counts() | precision_counts(SEEDED, to_onnx(ExportNet(net, (64, 64, 64))))


def published() -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the counts of the published size, and those after each rewrite of its float16 graph."""
    model = to_onnx(ExportNet(seeded([Pathway((0,) * 7)], 48), (96, 96, 96)))
    return precision_counts(PUBLISHED, model), rewrite_steps(model)


def quick_counts() -> dict[str, float]:
    """Return the counts that need no export, in seconds of work."""
    found: dict[str, float] = {}
    for shape in GRIDS:
        for overlap in OVERLAPS:
            plan = plan_windows(shape, WindowSpec(patch_size=(64, 64, 64), overlap=overlap))
            found[f"windows, {'x'.join(map(str, shape))}, overlap {overlap}"] = len(plan.starts)
    demo = open_bundle(find_bundle("demo", ())).file(MODEL_FILE)
    found |= graph_counts("demo bundle", onnx.load(demo))
    done = stream(volume())
    found["windows, streaming run"] = done.windows
    found["windows computed, streaming run"] = done.windows - done.reused
    found["allocated, streaming run"] = allocated()
    return found


def instructions() -> dict[str, Any] | None:
    """Count the instructions of a streaming run with valgrind: those of its process minus an idle one.

    Returns:
        Count, and the builds that it depends on; None without valgrind.
    """
    if shutil.which("valgrind") is None:
        return None
    idle, busy = (_executed(arguments) for arguments in (["idle"], []))
    return {"instructions, streaming run": busy - idle, "with": _builds()}


def compare(now: Mapping[str, float], then: Mapping[str, float]) -> list[Difference]:
    """Return the counts that differ by more than their tolerance; for all counts, less is better."""
    found = []
    for name in [*then, *(n for n in now if n not in then)]:
        before, after = then.get(name), now.get(name)
        verdict: Verdict | None = None
        if before is None:
            verdict = "new"
        elif after is None:
            verdict = "gone"
        else:
            allowed = TOLERANCES[re.split("[ ,]", name)[0]] * before
            verdict = "worse" if after > before + allowed else "better" if after < before - allowed else None
        if verdict is not None:
            found.append(Difference(name=name, verdict=verdict, then=before, now=after))
    return found


def comparable(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether two records have counts of instructions from the same builds."""
    builds = [record["instructions"].get("with") for record in (then, now)]
    return builds[0] is not None and builds[0] == builds[1]


def last_record(folder: Path = RESULTS) -> dict[str, Any]:
    """Return the newest record of counted work.

    Raises:
        OutputError: The folder has no such record.
    """
    try:
        return newest("counted", folder)
    except FileNotFoundError as error:
        raise OutputError(
            "no record of counted work",
            received=str(folder),
            expected="counted_<hardware>_<yyyymmdd>.json",
            fix="Run python -m benchmarks counted.",
        ) from error


def _executed(arguments: list[str]) -> int:
    """Return the number of instructions that a process of `benchmarks.counted.run` executes."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    command += [sys.executable, "-m", "benchmarks.counted.run", *arguments]
    # One thread and fixed hashes make the work reproducible.
    fixed = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **fixed},
        cwd=Path(__file__).parents[2],
    )
    match = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if match is None:
        raise RuntimeError(f"valgrind printed no count: {done.stderr[-300:]}")
    return int(match[1].replace(",", ""))


def _builds() -> dict[str, str]:
    return {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
