"""Time one engine from file to label map, repeatedly, in a process that loads only the runtime."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from gcis_runtime.sliding.labeller import DEFAULT_RESTORE, Restore
from gcis_runtime.system.memory import peak_memory_bytes

STAGES = ("read", "preprocess", "network", "blend", "restore", "write")
"""Stages of a run, in their order."""
COMMAND = ("-P", "-m", "gcis_runtime.latency")
"""Arguments of the interpreter that measure a `Run`; see `processes.run_process`.

With `-P`, nothing is imported from the working directory.
"""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one process.

    Attributes:
        bundle: Folder of the bundle.
        image: CT file.
        out: Label map to write.
        engine: Engine of the runtime.
        precision: Precision of the engine.
        device: `"cpu"` or `"cuda"`.
        threads: CPU threads.
        restore: Resampling of labels to the native grid.
        warmup: Warm-up runs, at least 1; 0 only opens the engine.
        repeats: Timed runs.
        product: ONNX file of the matrix product that gives the ceiling; None skips it.
        launched: `time.monotonic()` at the launch of the process.
    """

    bundle: str
    image: str
    out: str
    engine: str
    precision: str
    device: str = "cpu"
    threads: int
    restore: Restore = DEFAULT_RESTORE
    warmup: int = 1
    repeats: int = 0
    product: str | None = None
    launched: float = 0.0


def measure(run: Run) -> dict[str, Any]:
    """Open the engine, segment the file repeatedly and return times and memory, ready for JSON.

    Raises:
        GcisError: The engine cannot be opened, or the file cannot be segmented.
    """
    from gcis_runtime import Segmenter, read_volume  # noqa: PLC0415 (part of the start-up that is measured)

    with Segmenter.open(
        run.bundle, engine=run.engine, precision=run.precision, device=run.device, threads=run.threads
    ) as segmenter:
        opened = time.monotonic()
        if run.warmup == 0:
            return {"start_seconds": round(opened - run.launched, 3)}

        def once() -> tuple[dict[str, float], Any]:
            seconds: dict[str, float] = {}
            volume = _timed(seconds, "read", lambda: read_volume(run.image))
            result = segmenter.segment(volume, restore=run.restore)
            seconds |= result.seconds
            seconds["restore"] += seconds.get("post", 0.0)  # rules of the bundle, on the labels of the file
            _timed(seconds, "write", lambda: result.save(run.out))
            return {stage: round(seconds[stage], 5) for stage in STAGES}, result

        first, result = once()
        answered = time.monotonic()
        for _ in range(run.warmup - 1):
            once()
        samples = [once()[0] for _ in range(run.repeats)]
        found = {
            "engine": msgspec.to_builtins(segmenter.engine),
            "windows": result.windows,
            "windows_reused": result.windows_reused,
            "structures": len(result.structures),
            "start_seconds": round(opened - run.launched, 3),
            "first_result_seconds": round(answered - run.launched, 3),
            "first": first,
            "samples": samples,
            "peak_memory_mb": round((peak_memory_bytes() or 0) / 1e6) or None,
            "device_memory_mb": device_memory_mb() if run.device != "cpu" else None,
            "ceiling_gflops": None,
        }
    if run.product is not None:
        from gcis_runtime.latency.ceiling import gflops  # noqa: PLC0415 (after the peak of memory was read)

        found["ceiling_gflops"] = round(
            gflops(run.engine, run.precision, Path(run.product), threads=run.threads), 1
        )
    return found


def device_memory_mb() -> int | None:
    """Return the GPU memory of this process in MB as reported by `nvidia-smi`; None if it reports none."""
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    rows = [line.split(",") for line in done.stdout.splitlines()]
    held = [int(used) for pid, used in rows if int(pid) == os.getpid() and used.strip().isdigit()]
    return round(sum(held) * 1.048576) if held else None


def _timed(seconds: dict[str, float], name: str, step: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = step()
    seconds[name] = time.perf_counter() - started
    return result
