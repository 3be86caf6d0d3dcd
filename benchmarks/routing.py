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
    *,
    feature_size: int,
    roi: int,
    rounds: int,
    repeats: int,
    warmup: int,
    threads: int,
    sharing: bool,
    keep_memory: bool,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Measure one size of network and window; the ways take turns, each in a process of its own.

    Args:
        feature_size: Channels of the first stage.
        roi: Window side, voxels.
        rounds: Turns.
        repeats: Timed steps of a turn.
        warmup: Steps before them.
        threads: Threads of PyTorch.
        sharing: Measure also what rows of one window, and rows of one pathway, gain from each other.
        keep_memory: Time steps as a training runs them, keeping freed memory; peaks are then measured in
            steps of their own that give it back.
        progress: Told one line a measurement.

    Returns:
        The record, ready for JSON.
    """
    published = Step(
        way="published",
        feature_size=feature_size,
        roi=roi,
        threads=threads,
        repeats=repeats,
        warmup=warmup,
        keep_memory=keep_memory,
    )
    ours = msgspec.structs.replace(published, way="ours")
    rows = _turns([published, ours], rounds, progress)
    if keep_memory:
        once = {"warmup": 0, "repeats": 1, "keep_memory": False}
        rows += _turns([msgspec.structs.replace(step, **once) for step in (published, ours)], 1, progress)
    for recompute in (False, True):
        still = {"warmup": 0, "repeats": 0, "checkpoint": recompute}
        rows += _turns([msgspec.structs.replace(step, **still) for step in (published, ours)], 1, progress)
    shared: list[dict[str, Any]] = []
    if sharing:
        several = msgspec.structs.replace(ours, prompts=SHARED_PROMPTS)
        shared += _turns([ours, several], rounds, progress)
        together = msgspec.structs.replace(ours, windows=SAME_PATHWAY_WINDOWS, one_pathway=True)
        shared += _turns([together, msgspec.structs.replace(together, way="rows apart")], rounds, progress)
    return {
        "what": f"routing-{feature_size}-{roi}",
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
    extra = "" if step.warmup + step.repeats else ", forward pass"
    extra += ", freed memory kept" if step.keep_memory and step.repeats else ""
    extra += ", gradient checkpointing" if step.checkpoint else ""
    return f"{step.feature_size}/{step.roi} {step.way}, {rows}{extra}"


def _merged(step: Step, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the turns of one way together: every time, their medians, the largest memory."""
    row: dict[str, Any] = {"name": _name(step), **msgspec.to_builtins(step)}
    for key in ("seconds", "cpu_seconds"):
        values = [value for result in results for value in result.get(key, ())]
        if values:
            row[f"{key}_all"] = values
            row[key] = round(statistics.median(values), 3)
    for key in ("activation_mb", "encoder_mb", "peak_mb", "process_mb"):
        values = [result[key] for result in results if key in result]
        if values:
            row[key] = max(values)
    for key in ("first_loss", "unavailable"):
        if key in results[0]:
            row[key] = results[0][key]
    return row


def _ratios(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return ours over published, step by step."""
    ratios = {}
    for published, ours in zip(rows[::2], rows[1::2], strict=True):
        name = f"{ours['name']} / published"
        keys = ("seconds", "cpu_seconds", "activation_mb", "peak_mb")
        both = [key for key in keys if key in ours and key in published]
        ratios[name] = {key: round(ours[key] / published[key], 3) for key in both}
        if "encoder_mb" in ours and "encoder_mb" in published:
            decoder = [row["activation_mb"] - row["encoder_mb"] for row in (ours, published)]
            ratios[name]["decoder_activation_mb"] = round(decoder[0] / decoder[1], 3)
        if both:
            ratios[name]["loss_difference"] = abs(ours["first_loss"] - published["first_loss"])
    return ratios


def _gains(shared: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return how many times faster a prompt is among several, and a window among others of its pathway."""
    if not shared:
        return {}
    one, several, together, apart = shared
    keys = [k for k in ("seconds", "cpu_seconds") if all(k in row for row in shared)]
    return {
        f"a prompt alone / among {SHARED_PROMPTS} of a window": {
            key: round(one[key] * SHARED_PROMPTS / several[key], 2) for key in keys
        },
        f"{SAME_PATHWAY_WINDOWS} windows of one pathway one by one / together": {
            key: round(apart[key] / together[key], 2) for key in keys
        },
    }
