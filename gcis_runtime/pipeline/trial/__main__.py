"""Measure the settings of a task in this process: `python -m gcis_runtime.pipeline.trial`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.errors import EngineError
from gcis_runtime.pipeline.trial.measure import measure
from gcis_runtime.pipeline.trial.task import READY, Task
from gcis_runtime.system.console import command


@command("measure-settings", hidden=True)
def main() -> None:
    """Measure settings of ONNX Runtime; the task is read from stdin, and each outcome is a line of JSON."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    bundle = open_bundle(Path(task.bundle))
    if bundle.sha256 != task.sha256:
        raise EngineError(
            "the bundle was replaced during the trial",
            received=bundle.sha256,
            expected=task.sha256,
            fix="Repeat the trial.",
        )
    for outcome in measure(bundle, task):
        click.echo(READY if outcome is None else msgspec.json.encode(outcome).decode())


if __name__ == "__main__":
    main()
