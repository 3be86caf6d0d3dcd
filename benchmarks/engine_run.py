"""One engine from file to label map, in a process of its own that holds the lean runtime and nothing else.

`python -m benchmarks engine-run` reads a `Run` as JSON and prints what it measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from gcis_runtime.errors import GcisError
from gcis_runtime.sliding.labeller import DEFAULT_RESTORE, Restore
from gcis_runtime.system.memory import peak_memory_bytes

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
STAGES = ("read", "preprocess", "network", "blend", "restore", "write")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure.

    Attributes:
        bundle: The bundle's folder.
        image: CT file.
        out: Label map to write.
        engine: The runtime's engine.
        precision: Its precision.
        device: `"cpu"` or `"cuda"`.
        threads: CPU threads.
        restore: How labels come back to the file's grid.
        warmup: Runs before the timed ones, the first result among them; 0 only opens the engine.
        repeats: Timed runs.
        product: ONNX file of the matrix product that gives the ceiling; None measures none.
        launched: `time.monotonic()` when the process was started.
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


def in_own_process(command: str, setting: msgspec.Struct, *, home: Path) -> dict[str, Any]:
    """Run a hidden command of `python -m benchmarks` with its setting on stdin, free to use every processor.

    Args:
        command: The command.
        setting: With a `launched` field, which is filled in.
        home: `$GCIS_HOME` of the process: an engine keeps what it compiled there.

    Returns:
        What it printed, with `whole_seconds` from launch to exit, and `cpu_seconds` of all its threads where
        the system says them: other work on the machine disturbs these least.

    Raises:
        GcisError: It failed; the message is the last line that it printed.
    """
    variables = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
    launched, used = time.monotonic(), _children_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", command],
        input=msgspec.json.encode(msgspec.structs.replace(setting, launched=launched)),
        capture_output=True,
        check=False,
        env=variables | {"GCIS_HOME": str(home)},
    )
    whole = time.monotonic() - launched
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise GcisError(lines[-1].removeprefix("benchmarks: error: ") if lines else f"exit {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    cpu = None if used is None else round((_children_seconds() or 0.0) - used, 3)
    return found | {"whole_seconds": round(whole, 3), "cpu_seconds": cpu}


def _children_seconds() -> float | None:
    """Return CPU seconds of the processes that this one waited for; None where the system does not say."""
    try:
        import resource  # noqa: PLC0415 (not on Windows)
    except ImportError:
        return None
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(run: Run) -> dict[str, Any]:
    """Open the engine, segment the file again and again, and tell times and memory, ready for JSON.

    Raises:
        GcisError: The engine cannot be had, or the file cannot be segmented.
    """
    from gcis_runtime import Segmenter, read_volume  # noqa: PLC0415 (counted as start-up)

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
        from benchmarks.ceiling import gflops  # noqa: PLC0415 (after the peak of memory was read)

        found["ceiling_gflops"] = round(
            gflops(run.engine, run.precision, Path(run.product), threads=run.threads), 1
        )
    return found


def device_memory_mb() -> int | None:
    """Return what `nvidia-smi` says that this process holds on GPUs, in MB; None where it does not say."""
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
