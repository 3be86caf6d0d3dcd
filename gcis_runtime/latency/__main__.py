"""Measure one engine in this process: `python -m gcis_runtime.latency` reads a `Run` as JSON from stdin."""

from __future__ import annotations

import json
import sys

import click
import msgspec

from gcis_runtime.latency.engine_run import Run, measure
from gcis_runtime.system.console import command


@command("latency-engine", hidden=True)
def main() -> None:
    """Measure one engine; the settings are read from stdin, and the result is one line of JSON."""
    run = msgspec.json.decode(sys.stdin.buffer.read(), type=Run)
    click.echo(json.dumps(measure(run)))


if __name__ == "__main__":
    main()
