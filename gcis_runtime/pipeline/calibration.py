"""Store the measured time and memory of runs of a bundle on this machine, as calibration of later forecasts.

There is one small JSON file per graph, engine, version, precision, threads, batch and processor, in
`$GCIS_HOME/cache/calibration`. Files that are missing, damaged or of another version are ignored, and so are
errors when writing. Only forecasts depend on the calibration.
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
from gcis_runtime.system.records import read_record

_SCHEMA = 1
_MEMORY = 0.5
"""Weight of the latest run in the mean, because the load of a machine varies."""
_MOST_SECONDS, _MOST_BYTES = 1e5, 1 << 50


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measurements of earlier runs.

    Attributes:
        schema: Version of the file format.
        key: What the measurements depend on, such as graph, engine and processor.
        runs: Number of runs.
        window_seconds: Seconds of the network per computed window.
        blend_seconds: Seconds of accumulating logits per window.
        voxel_seconds: Seconds of preprocessing and mapping to the native grid per voxel of the file.
        run_bytes: Largest host memory of the engine's first runs, without loading it.
        device_bytes: Largest device memory of the loaded engine after its first runs; 0 on the CPU.
    """

    schema: int = _SCHEMA
    key: dict[str, str]
    runs: int
    window_seconds: float
    blend_seconds: float
    voxel_seconds: float
    run_bytes: int
    device_bytes: int = 0

    @property
    def is_plausible(self) -> bool:
        """Whether forecasts can be computed from the numbers: none is negative, infinite or absurd."""
        seconds = (self.window_seconds, self.blend_seconds, self.voxel_seconds)
        sizes = (self.run_bytes, self.device_bytes)
        return (
            self.runs > 0
            and all(0 <= s <= _MOST_SECONDS for s in seconds)
            and all(0 <= n <= _MOST_BYTES for n in sizes)
        )


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of one run; see `Calibration`."""

    window_seconds: float
    blend_seconds: float
    voxel_seconds: float
    run_bytes: int
    device_bytes: int = 0


def find(key: Mapping[str, str]) -> Calibration | None:
    """Return the calibration for a key, or None."""
    try:
        found = read_record(_file(key), Calibration).value
    except OutputError:  # this user has no home folder
        return None
    if found is None or found.schema != _SCHEMA or found.key != dict(key):
        return None
    return found if found.is_plausible else None


def record(key: Mapping[str, str], run: Measurement) -> None:
    """Add the measurements of a run to the calibration; errors when writing are ignored."""
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
