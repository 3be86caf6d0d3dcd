"""Define options and output that the benchmark commands share."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.records import RESULTS

record_folder = click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record."
)
bundle_option = click.option(
    "--bundle", default="demo", show_default=True, help="Folder or name of a bundle."
)


def show_step(line: str) -> None:
    """Print progress on stderr, apart from the result."""
    click.echo(line, err=True)
