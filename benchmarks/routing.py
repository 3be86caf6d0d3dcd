"""What a routed training step costs, against the published sum over pathways: one machine, one run."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from benchmarks.environment import environment
from benchmarks.routing_step import Step

SHARED_PROMPTS = 7
SAME_PATHWAY_WINDOWS = 3


def compare(
    cases: Sequence[tuple[int, int]],
    *,
    rounds: int,
    repeats: int,
    warmup: int,
    threads: int,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Measure every case; the ways of a case take turns, each in a process of its own.

    Args:
        cases: Feature size and window side of each case. What rows share is measured on the first; the
            others take one turn of one step.
        rounds: Turns of the first case.
        repeats: Timed steps of its turns.
        warmup: Steps before them.
        threads: Threads of PyTorch.
        progress: Told one line a measurement.

    Returns:
        The record, ready for JSON.
    """
    rows = []
    for number, (feature_size, roi) in enumerate(cases):
        base = Step(
            way="published",
            feature_size=feature_size,
            roi=roi,
            threads=threads,
            repeats=repeats if number == 0 else 1,
            warmup=warmup if number == 0 else 0,
        )
        ours = msgspec.structs.replace(base, way="ours")
        rows += _turns([base, ours], rounds if number == 0 else 1, progress)
        recomputed = [msgspec.structs.replace(s, checkpoint=True, warmup=0, repeats=0) for s in (base, ours)]
        rows += _turns(recomputed, 1, progress)
    shared: list[dict[str, Any]] = []
    if cases:
        feature_size, roi = cases[0]
        one = Step(
            way="ours", feature_size=feature_size, roi=roi, threads=threads, repeats=repeats, warmup=warmup
        )
        several = msgspec.structs.replace(one, prompts=SHARED_PROMPTS)
        shared += _turns([one, several], rounds, progress)
        together = msgspec.structs.replace(one, windows=SAME_PATHWAY_WINDOWS, one_pathway=True)
        shared += _turns([together, msgspec.structs.replace(together, way="rows apart")], rounds, progress)
    return {
        "what": "routing",
        "environment": environment(),
        "rounds": rounds,
        "rows": rows,
        "shared": shared,
        "ratios": _ratios(rows) | _gains(shared),
    }


def _turns(steps: Sequence[Step], rounds: int, progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure several ways in turns, so that a busy minute of the machine hits all of them."""
    found: list[list[dict[str, Any]]] = [[] for _ in steps]
    for _ in range(rounds):
        for step, results in zip(steps, found, strict=True):
            results.append(_measured(step))
            progress(f"{_name(step)}: {json.dumps(results[-1])}")
    return [_merged(step, results) for step, results in zip(steps, found, strict=True)]


def _measured(step: Step) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.routing_step", msgspec.json.encode(step).decode()]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:  # the system kills a process that asks for more memory than there is
        return {"unavailable": f"ended with {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _name(step: Step) -> str:
    rows = f"{step.windows} x {step.prompts}"
    extra = ", gradient checkpointing" if step.checkpoint else ""
    return f"{step.feature_size}/{step.roi} {step.way}, {rows}{extra}"


def _merged(step: Step, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the turns of one way together: every time, their medians, the largest memory."""
    row: dict[str, Any] = {"name": _name(step), **msgspec.to_builtins(step)}
    for key in ("seconds", "cpu_seconds"):
        values = [value for result in results for value in result.get(key, ())]
        if values:
            row[f"{key}_all"] = values
            row[key] = round(statistics.median(values), 3)
    for key in ("activation_mb", "peak_mb", "process_mb"):
        values = [result[key] for result in results if key in result]
        if values:
            row[key] = max(values)
    for key in ("first_loss", "unavailable"):
        if key in results[0]:
            row[key] = results[0][key]
    return row


def _ratios(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return ours over published, for each case."""
    ratios = {}
    for published, ours in zip(rows[::2], rows[1::2], strict=True):
        name = f"{ours['name']} / published"
        keys = ("seconds", "cpu_seconds", "activation_mb", "peak_mb")
        both = [key for key in keys if key in ours and key in published]
        ratios[name] = {key: round(ours[key] / published[key], 3) for key in both}
        if both:
            ratios[name]["loss_difference"] = abs(ours["first_loss"] - published["first_loss"])
    return ratios


def _gains(shared: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return how many times faster a prompt is among several, and a window among others of its pathway."""
    if not shared:
        return {}
    one, several, together, apart = shared
    keys = ("seconds", "cpu_seconds")
    return {
        f"a prompt alone / among {SHARED_PROMPTS} of a window": {
            key: round(one[key] * SHARED_PROMPTS / several[key], 2) for key in keys
        },
        f"{SAME_PATHWAY_WINDOWS} windows of one pathway one by one / together": {
            key: round(apart[key] / together[key], 2) for key in keys
        },
    }
