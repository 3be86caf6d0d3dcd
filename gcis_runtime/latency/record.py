"""Define the latency record, the JSON file whose schema is docs/schema/latency.v1.schema.json."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec

PYTORCH = "PyTorch fp32, MONAI"
"""Name of the reference that `python -m benchmarks latency` computes."""


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base: immutable, keyword-only, no unknown fields."""


class Spread(Strict, frozen=True, kw_only=True):
    """Median and 90th percentile of the timed runs, in seconds."""

    p50: float
    p90: float


class Subject(Strict, frozen=True, kw_only=True):
    """Image and bundle of the measurement.

    Attributes:
        image: `"phantom 7"` or `"a CT file"`; file names are not recorded, since they may name a patient.
        voxels: Shape of the file, X, Y, Z.
        spacing_mm: Voxel size of the file.
        bundle: Name of the first bundle.
        bundle_sha256: Hash of its manifest.
        structures: Number of structures.
        roi: Window in voxels of the network's grid.
        network_spacing_mm: Voxel size of the network's grid; None if it is that of the file.
        overlap: Overlap of neighbouring windows, in [0, 1).
        giga_multiplications_per_window: 1e9 multiplications in convolutions and matrix products of the
            float32 graph.
    """

    image: str
    voxels: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    bundle: str
    bundle_sha256: str
    structures: int
    roi: tuple[int, int, int]
    network_spacing_mm: tuple[float, float, float] | None
    overlap: float
    giga_multiplications_per_window: float


class Reference(Strict, frozen=True, kw_only=True):
    """Run whose labels the engines are compared with.

    Attributes:
        name: Name of the reference: PyTorch with MONAI's transforms and sliding window, or the name of a row.
        whole_seconds: From launch to exit of the process; for a row, from launch to the first label map.
        network_seconds: Seconds in the network.
        peak_memory_mb: Peak resident memory of the process.
        dice_truth: Mean Dice against the true labels; None if they are unknown.
    """

    name: str = PYTORCH
    whole_seconds: float
    network_seconds: float
    peak_memory_mb: int | None
    dice_truth: float | None


class Row(Strict, frozen=True, kw_only=True):
    """One engine in one precision.

    Attributes:
        name: Such as `"openvino bf16"`.
        engine: Engine.
        version: Version of the engine.
        precision: Precision that the engine reports.
        device: `"cpu"` or `"cuda:0"`.
        threads: CPU threads.
        bundle: Name of the bundle that has the graph.
        stages: Seconds of read, preprocess, network, blend, restore and write.
        total: Seconds of all stages.
        repeats: Timed runs.
        windows: Windows of the volume.
        windows_computed: Windows that the network computed; a window of constant voxels is computed once.
        windows_per_second: Computed windows divided by the median time of the network.
        gflops: 1e9 multiplications and additions per second in the network.
        ceiling_gflops: The same for a large matrix product in the same engine, precision and process; None if
            it was not measured.
        share_of_ceiling: `gflops` divided by `ceiling_gflops`.
        start_first_seconds: From launch to an open engine, with an empty cache.
        start_again_seconds: The same with the cache of the first start; None after a single round.
        first_result_seconds: From launch to the first label map, with an empty cache.
        first_result_again_seconds: The same with the cache of the first start.
        peak_memory_mb: Peak resident memory of the process.
        device_memory_mb: GPU memory of the process; None on a CPU.
        labels_equal: Share of voxels with the same label as the reference.
        labels_equal_of_labelled: The same among voxels that the engine or the reference labels.
        voxels_unequal: Number of voxels with another label.
        dice: Mean Dice against the labels of the reference.
        dice_truth: Mean Dice against the true labels; None if they are unknown.
    """

    name: str
    engine: str
    version: str
    precision: str
    device: str
    threads: int
    bundle: str
    stages: dict[str, Spread]
    total: Spread
    repeats: int
    windows: int
    windows_computed: int
    windows_per_second: float
    gflops: float
    ceiling_gflops: float | None
    share_of_ceiling: float | None
    start_first_seconds: float
    start_again_seconds: float | None
    first_result_seconds: float
    first_result_again_seconds: float | None
    peak_memory_mb: int | None
    device_memory_mb: int | None
    labels_equal: float
    labels_equal_of_labelled: float | None
    voxels_unequal: int
    dice: float | None
    dice_truth: float | None


class Missing(Strict, frozen=True, kw_only=True):
    """Engine that did not run, and the reason."""

    name: str
    reason: str


class LatencyRecord(Strict, frozen=True, kw_only=True):
    """Measurements of all engines on one CT.

    Attributes:
        environment: Machine, limits, packages and commit.
        subject: Image and bundle.
        rounds: Processes of each engine, in turns.
        warmup: Warm-up runs of each process.
        repeats: Timed runs of each process.
        reference: Run whose labels the engines are compared with.
        rows: Engines that ran.
        missing: Engines that did not run.
        note: How the numbers were obtained.
    """

    schema: Literal["gcis-latency"] = "gcis-latency"
    schema_version: Literal[1] = 1
    what: Literal["latency"] = "latency"
    environment: dict[str, Any]
    subject: Subject
    rounds: int
    warmup: int
    repeats: int
    reference: Reference
    rows: tuple[Row, ...]
    missing: tuple[Missing, ...]
    note: str

    @property
    def from_pytorch(self) -> bool:
        """Whether the reference is the network in PyTorch, and not one of the rows."""
        return all(row.name != self.reference.name for row in self.rows)


def schema_text() -> str:
    """Return the JSON Schema of the record as text, as stored in docs/schema."""
    schema = msgspec.json.schema(LatencyRecord)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "gCIS latency record"}
    return json.dumps(head | schema, indent=2) + "\n"
