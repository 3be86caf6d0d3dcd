"""How long a start takes: the interpreter alone, `import gcis_runtime`, `gcis-run --help`."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import Any

from benchmarks.environment import environment

COMMANDS = {
    "python": ["-c", "pass"],
    "import gcis_runtime": ["-c", "import gcis_runtime"],
    "gcis-run --help": ["-m", "gcis_runtime.cli.run", "--help"],
}


def measure(*, rounds: int) -> dict[str, Any]:
    """Start each in turn, in a process of its own.

    Args:
        rounds: Turns; the first, which fills the disk's cache, does not count.

    Returns:
        The record, ready for JSON: median and least seconds of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return {
        "what": "start",
        "environment": environment(),
        "rounds": rounds,
        "rows": [
            {"start": name, "median_seconds": round(median(taken), 4), "least_seconds": round(min(taken), 4)}
            for name, taken in seconds.items()
        ],
    }
