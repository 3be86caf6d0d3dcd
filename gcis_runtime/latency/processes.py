"""Run one measurement in a separate process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from gcis_runtime.errors import GcisError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that limit the threads of a process; measurements set the number of threads themselves."""


def run_process(arguments: Sequence[str], setting: msgspec.Struct, *, home: Path) -> dict[str, Any]:
    """Run `python ARGUMENTS` with a setting as JSON on stdin and return the JSON object that it prints last.

    Args:
        arguments: Arguments of the interpreter, such as `("-P", "-m", "gcis_runtime.latency")`.
        setting: Setting with a `launched` field, which is filled in.
        home: `$GCIS_HOME` of the process, where engines are cached.

    Returns:
        The object, with `whole_seconds` from launch to exit and `cpu_seconds` of all threads of the process
        (None where the system does not report them). CPU seconds vary least while other processes run.

    Raises:
        GcisError: The process failed; the message is its last line on stderr.
    """
    variables = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
    launched, used = time.monotonic(), _children_seconds()
    done = subprocess.run(
        [sys.executable, *arguments],
        input=msgspec.json.encode(msgspec.structs.replace(setting, launched=launched)),
        capture_output=True,
        check=False,
        env=variables | {"GCIS_HOME": str(home)},
    )
    whole = time.monotonic() - launched
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise GcisError(re.sub(r"^[\w.-]+: error: ", "", lines[-1]))
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    cpu = None if used is None else round((_children_seconds() or 0.0) - used, 3)
    return found | {"whole_seconds": round(whole, 3), "cpu_seconds": cpu}


def _children_seconds() -> float | None:
    """Return CPU seconds of ended child processes; None if the system does not report them."""
    try:
        import resource  # noqa: PLC0415 (not on Windows)
    except ImportError:
        return None
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
