"""Implement the command `counted`."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.options import record_folder
from gcis_runtime.errors import GcisError
from gcis_runtime.latency.record_file import write_record


@click.command()
@click.option("--check", is_flag=True, help="Compare with the last record without writing a new one.")
@record_folder
def counted(check: bool, out: Path) -> None:
    """Count windows, operators, FLOPs, memory and instructions (with valgrind).

    With --check the counts are compared with the last record, and the exit code is 2 if one has increased.
    """
    from benchmarks.counted.measure import comparable, compare, last_record, measure

    then = last_record(out) if check else None
    now = measure()
    for name, value in (now["counts"] | now["instructions"]).items():
        click.echo(f"{value:>20,}  {name}" if isinstance(value, int | float) else f"{name}: {value}")
    if then is None:
        click.echo(f"record: {write_record(now, out)}")
        return
    key = "instructions, streaming run"
    found = compare(now["counts"], then["counts"])
    if comparable(then, now):
        found += compare({key: now["instructions"][key]}, {key: then["instructions"][key]})
    else:
        click.echo("instructions: not compared (no valgrind, or other builds of Python or numpy)")
    for difference in found:
        click.echo(difference.text)
    if any(difference.verdict in ("worse", "gone") for difference in found):
        raise GcisError(
            "more work than in the record",
            received="; ".join(d.text for d in found if d.verdict in ("worse", "gone")),
            expected=f"counts of {then['environment']['date'][:10]}, within their tolerances",
            fix="Find the cause; if the increase is intended, renew the record: python -m benchmarks counted",
        )
    if found:
        click.echo("less work than in the record: renew it with python -m benchmarks counted")
