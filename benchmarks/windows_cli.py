"""Commands of benchmarks about starts and about windows that need not run."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.records import RESULTS, write_record


@click.command()
@click.option("--rounds", default=10, show_default=True, help="Turns.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def start(rounds: int, out: Path) -> None:
    """Time the start of Python, of the package and of gcis-run --help."""
    from benchmarks.start import measure

    record = measure(rounds=rounds)
    for row in record["rows"]:
        click.echo(f"{row['median_seconds']:7.3f} s, at least {row['least_seconds']:.3f} s  {row['start']}")
    click.echo(f"record: {write_record(record, out)}")


COMMANDS = (start,)
