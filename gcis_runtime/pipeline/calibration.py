"""What runs of a bundle cost on this machine: measured by every run, and kept for the next one's forecast.

One small JSON file for each graph, engine, version, precision, threads, batch and processor, in
`$GCIS_HOME/cache/calibration`. A file that is missing, damaged or of another version is no calibration; one
that cannot be written is not kept. Nothing but forecasts depends on it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gcis_runtime.errors import OutputError
from gcis_runtime.system.home import home_folder
from gcis_runtime.system.json_files import write_json

_SCHEMA = 1
_MEMORY = 0.5
"""Share of the newest run in the mean: machines get busy, and idle again."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured.

    Attributes:
        schema: Version of this file.
        key: What it was measured of.
        runs: Runs so far.
        window_seconds: Time of the network for a window that is computed.
        blend_seconds: Time of adding up a window's logits.
        voxel_seconds: Time of pre-processing and restoring, by voxel of the file.
        run_bytes: Host memory that the engine's first runs took, beyond loading it; the most so far.
        device_bytes: Device memory of the loaded engine after its first runs; 0 on the CPU.
    """

    schema: int = _SCHEMA
    key: dict[str, str]
    runs: int
    window_seconds: float
    blend_seconds: float
    voxel_seconds: float
    run_bytes: int
    device_bytes: int = 0


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One run's share of a `Calibration`; see there."""

    window_seconds: float
    blend_seconds: float
    voxel_seconds: float
    run_bytes: int
    device_bytes: int = 0


def find(key: Mapping[str, str]) -> Calibration | None:
    """Return what earlier runs measured, or None."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        found = msgspec.json.decode(_file(key).read_bytes(), type=Calibration)
        if found.schema == _SCHEMA and found.key == dict(key):
            return found
    return None


def keep(key: Mapping[str, str], run: Measured) -> None:
    """Let a run count; where the disk refuses, nothing happens."""
    before = find(key)
    if before is None:
        new = Calibration(key=dict(key), runs=1, **msgspec.structs.asdict(run))
    else:
        new = Calibration(
            key=dict(key),
            runs=before.runs + 1,
            window_seconds=_mean(before.window_seconds, run.window_seconds),
            blend_seconds=_mean(before.blend_seconds, run.blend_seconds),
            voxel_seconds=_mean(before.voxel_seconds, run.voxel_seconds),
            run_bytes=max(before.run_bytes, run.run_bytes),
            device_bytes=max(before.device_bytes, run.device_bytes),
        )
    with contextlib.suppress(OutputError, OSError):
        write_json(_file(key), new)


def _mean(before: float, now: float) -> float:
    return (1 - _MEMORY) * before + _MEMORY * now


def _file(key: Mapping[str, str]) -> Path:
    digest = hashlib.sha256(msgspec.json.encode(dict(key), order="sorted")).hexdigest()
    return home_folder() / "cache" / "calibration" / f"{digest[:24]}.json"
