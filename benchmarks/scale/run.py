"""Segment images with the pipeline of `gcis-run` in one process of `scale`.

`python -m benchmarks.scale.run` reads a `Work` as JSON from stdin and prints the measurements as JSON.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from gcis_runtime.system.memory import peak_memory_bytes


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """Work of one process.

    Attributes:
        images: CT files, one after another; without any the process only opens the engine.
        bundle: Folder of the bundle.
        out: Folder of the label maps.
        engine: Engine of the runtime.
        precision: Precision of the engine.
        threads: CPU threads.
    """

    images: tuple[str, ...]
    bundle: str
    out: str
    engine: str
    precision: str
    threads: int


def run(work: Work) -> dict[str, Any]:
    """Segment every image and return seconds, windows and peak memory, ready for JSON.

    `cases_seconds` is the time from the open engine to the last written file. Without images the result is
    empty.

    Raises:
        Exception: The error of the first image that failed.
    """
    from gcis_runtime.pipeline.segmenter import Segmenter  # noqa: PLC0415
    from gcis_runtime.runs.cohort import run_cases  # noqa: PLC0415 (imports are part of the start)
    from gcis_runtime.runs.inputs import find_images  # noqa: PLC0415
    from gcis_runtime.runs.options import RunOptions  # noqa: PLC0415
    from gcis_runtime.runs.outcome import Outcome  # noqa: PLC0415
    from gcis_runtime.runs.outputs import plan_jobs  # noqa: PLC0415

    jobs = plan_jobs(find_images([Path(image) for image in work.images]), f"{work.out}/")
    outcomes: list[Outcome] = []
    with Segmenter.open(
        work.bundle, engine=work.engine, precision=work.precision, threads=work.threads
    ) as segmenter:
        if not work.images:
            return {}
        ready = time.perf_counter()
        run_cases(segmenter, jobs, RunOptions(), on_done=outcomes.append)
        seconds = time.perf_counter() - ready
        engine = segmenter.engine.text
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    total = sum(r.windows.total for r in reports)
    reused = sum(r.windows.reused for r in reports)
    return {
        "engine": engine,
        "cases_seconds": round(seconds, 3),
        "cpu_seconds": round(time.process_time(), 3),
        "stages": {name: round(sum(r.seconds[name] for r in reports), 3) for name in reports[0].seconds},
        "windows": total,
        "windows_computed": total - reused,
        "labelled_voxels": sum(s.voxels for r in reports for s in r.structures),
        "peak_memory_mb": round((peak_memory_bytes() or 0) / 1e6),
    }


if __name__ == "__main__":
    found = run(msgspec.json.decode(sys.stdin.buffer.read(), type=Work))
    sys.stdout.write(msgspec.json.encode(found).decode())
