"""What `latency` records, typed: the form of its JSON file, whose schema stands in docs/schema."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base: immutable, keyword-only, no unknown fields."""


class Spread(Strict, frozen=True, kw_only=True):
    """Seconds that half of the repeats took at most, and nine in ten."""

    p50: float
    p90: float


class Subject(Strict, frozen=True, kw_only=True):
    """What was segmented, and with what.

    Attributes:
        image: `"phantom 7"` or `"a CT file"`: a patient's file is not named.
        voxels: Of the file, X, Y, Z.
        spacing_mm: Of the file.
        bundle: Name of the first bundle.
        bundle_sha256: Hash of its manifest.
        structures: How many are segmented.
        roi: Window, in voxels of the network's grid.
        network_spacing_mm: The network's voxels; None where it keeps the file's.
        overlap: Of neighbouring windows, as a share.
        giga_multiplications_per_window: Of the float32 graph; an operation more for each addition.
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
    """The network in PyTorch, float32, with MONAI's transforms and sliding window: what labels should be.

    Attributes:
        whole_seconds: From launch to exit of the process.
        network_seconds: In the network.
        peak_memory_mb: Of the process.
        dice_truth: Mean Dice against the true labels; None where they are not known.
    """

    whole_seconds: float
    network_seconds: float
    peak_memory_mb: int | None
    dice_truth: float | None


class Row(Strict, frozen=True, kw_only=True):
    """One engine in one precision.

    Attributes:
        name: Such as `"openvino bf16"`.
        engine: Engine.
        version: Its version.
        precision: What it computes in, as it says itself.
        device: `"cpu"` or `"cuda:0"`.
        threads: CPU threads.
        bundle: Where its graph comes from.
        stages: Seconds of read, preprocess, network, blend, restore and write.
        total: Seconds of all stages.
        repeats: Timed runs.
        windows: Windows of the volume.
        windows_computed: Those that were not constant, and so not answered from an earlier one.
        windows_per_second: Computed windows over the network's median time.
        gflops: 1e9 multiplications and additions a second in the network.
        ceiling_gflops: Of a large matrix product in the same engine, precision and process; None where it was
            not measured.
        share_of_ceiling: `gflops` over it.
        start_first_seconds: From launch to an open engine, nothing kept from earlier.
        start_again_seconds: The same with what the first start kept; None after a single round.
        first_result_seconds: From launch to the first label map, nothing kept from earlier.
        first_result_again_seconds: The same with what the first start kept.
        peak_memory_mb: Of the process, resident.
        device_memory_mb: On the GPU; None on a CPU.
        labels_equal: Share of voxels with the reference's label.
        labels_equal_of_labelled: The same among voxels that either labels.
        voxels_unequal: How many have another label.
        dice: Mean Dice against the reference's labels.
        dice_truth: Mean Dice against the true labels; None where they are not known.
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
    """An engine that did not run, and why."""

    name: str
    reason: str


class LatencyRecord(Strict, frozen=True, kw_only=True):
    """The record.

    Attributes:
        environment: Machine, limits, packages and commit.
        subject: What was segmented.
        rounds: Processes of each engine, in turns.
        warmup: Runs of each process before the timed ones.
        repeats: Timed runs of each process.
        reference: PyTorch.
        rows: Engines that ran.
        missing: Those that did not.
        note: How to read it.
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


def schema_text() -> str:
    """Return the JSON Schema of the record, as it stands in docs/schema."""
    schema = msgspec.json.schema(LatencyRecord)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "gCIS latency record"}
    return json.dumps(head | schema, indent=2) + "\n"
