"""Build a row of the latency record from the measurements and the label map of one engine."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.latency.agreement import agreement, mean_dice
from gcis_runtime.latency.engine_run import STAGES
from gcis_runtime.latency.record import Row, Spread

Labels = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """Engine, precision and device to measure, and the bundle that has the graph."""

    engine: str
    precision: str
    device: str
    bundle: Bundle

    @property
    def name(self) -> str:
        """Name in tables, such as `"openvino bf16"`."""
        return f"{self.engine} {self.precision}" + (" on a GPU" if self.device != "cpu" else "")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """Label maps and work that every row is compared with.

    Attributes:
        labels: Label map of the reference, (X, Y, Z).
        truth: True label map, (X, Y, Z); None if unknown.
        giga: 1e9 multiplications per window.
    """

    labels: Labels
    truth: Labels | None
    giga: float


def row_of(candidate: Candidate, turns: Sequence[dict[str, Any]], labels: Labels, against: Expected) -> Row:
    """Return the row of a candidate.

    Args:
        candidate: Engine, precision and device.
        turns: Result of `engine_run.measure` of each process, in their order.
        labels: Label map that it wrote, (X, Y, Z).
        against: Label maps to compare with, and the work of a window.
    """
    samples = [sample for turn in turns for sample in turn["samples"]]
    stages = {stage: _spread([sample[stage] for sample in samples]) for stage in STAGES}
    first, later = turns[0], turns[1:]
    computed = first["windows"] - first["windows_reused"]
    network = stages["network"].p50
    gflops = 2 * against.giga * computed / network
    ceilings = [t["ceiling_gflops"] for t in turns if t["ceiling_gflops"] is not None]
    engine, same = first["engine"], agreement(labels, against.labels)
    return Row(
        name=candidate.name,
        engine=engine["name"],
        version=engine["version"],
        precision=engine["precision"],
        device=engine["device"],
        threads=engine["threads"],
        bundle=candidate.bundle.name,
        stages=stages,
        total=_spread([sum(sample.values()) for sample in samples]),
        repeats=len(samples),
        windows=first["windows"],
        windows_computed=computed,
        windows_per_second=round(computed / network, 3),
        gflops=round(gflops, 2),
        ceiling_gflops=max(ceilings, default=None),
        share_of_ceiling=round(gflops / max(ceilings), 4) if ceilings else None,
        start_first_seconds=first["start_seconds"],
        start_again_seconds=_median([t["start_seconds"] for t in later]),
        first_result_seconds=first["first_result_seconds"],
        first_result_again_seconds=_median([t["first_result_seconds"] for t in later]),
        peak_memory_mb=max((t["peak_memory_mb"] for t in turns if t["peak_memory_mb"]), default=None),
        device_memory_mb=max((t["device_memory_mb"] for t in turns if t["device_memory_mb"]), default=None),
        labels_equal=same["labels_equal"] or 0.0,
        labels_equal_of_labelled=same["labels_equal_of_labelled"],
        voxels_unequal=int(np.count_nonzero(labels != against.labels)),
        dice=same["dice"],
        dice_truth=None if against.truth is None else mean_dice(labels, against.truth),
    )


def _spread(seconds: Sequence[float]) -> Spread:
    p50, p90 = np.percentile(seconds, [50, 90])
    return Spread(p50=round(float(p50), 5), p90=round(float(p90), 5))


def _median(seconds: Sequence[float]) -> float | None:
    return round(statistics.median(seconds), 3) if seconds else None
