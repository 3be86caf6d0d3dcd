"""Define options and output that the benchmark commands share."""

from __future__ import annotations

import click

from benchmarks.records import RESULTS
from gcis_runtime.system.console import out_option

record_folder = out_option(default=RESULTS, help="Folder of the record.")
bundle_option = click.option(
    "--bundle", default="demo", show_default=True, help="Folder or name of a bundle."
)


def show_step(line: str) -> None:
    """Print progress on stderr, apart from the result."""
    click.echo(line, err=True)
