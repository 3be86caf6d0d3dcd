"""Benchmarks of the runtime: `restore`, `outside`, `memory`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.records import RESULTS, write_record

if TYPE_CHECKING:
    from gcis_runtime.labelling import Restore


@click.command()
@click.option("--bundle", default="demo", show_default=True, help="Bundle.")
@click.option("--datalist", type=click.Path(path_type=Path), help="Its validation cases are scored.")
@click.option("--cases", default=6, show_default=True, help="How many of them.")
@click.option("--phantoms", default=3, show_default=True, help="Phantoms to score.")
@click.option("--seed", default=9000, show_default=True, help="The first phantom's seed.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def restore(bundle: str, datalist: Path | None, cases: int, phantoms: int, seed: int, out: Path) -> None:
    """Score labels restored by interpolated margins against the nearest voxel's label."""
    from benchmarks.restore import compare

    with tempfile.TemporaryDirectory() as folder:
        record = compare(
            bundle, datalist=datalist, cases=cases, phantoms=phantoms, seed=seed, folder=Path(folder)
        )
    for name, ways in record["results"].items():
        for way, row in ways.items():
            click.echo(f"{name:10} {way:8} Dice {row['mean_dice']:.4f}  {row['seconds']:.1f} s")
    click.echo(f"record: {write_record(record, out)}")


@click.command()
@click.option("--shape", type=(int, int, int), default=(512, 512, 425), show_default=True, help="Voxels.")
@click.option("--spacing", type=(float, float, float), default=(0.8, 0.8, 1.0), show_default=True, help="mm.")
@click.option("--target", default=1.0, show_default=True, help="The network's spacing in mm.")
@click.option("--roi", default=96, show_default=True, help="Edge of the windows.")
@click.option("--overlap", default=0.5, show_default=True, help="Their overlap.")
@click.option(
    "--case",
    "cases",
    multiple=True,
    default=("1:smooth", "7:nearest"),
    show_default=True,
    help="STRUCTURES:smooth|nearest; repeat for more. MONAI's smooth way back takes GBs a structure.",
)
@click.option("--repeats", default=1, show_default=True, help="Runs of each pipeline.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def outside(out: Path, cases: tuple[str, ...], **options: Any) -> None:
    """Time everything outside the network against MONAI around the same trivial predictor."""
    from benchmarks.outside import compare

    with tempfile.TemporaryDirectory() as folder:
        record = compare(cases=[_case(text) for text in cases], folder=Path(folder), **options)
    for row in record["rows"]:
        click.echo(
            f"{row['structures']} structures, {row['restore']:8}: {row['times_faster']:.1f} times faster "
            f"({row['times_faster_cpu']:.1f} in CPU time), "
            f"labels equal {row['labels_equal']:.4%}"
        )
        for name, (run, *_) in row["runs"].items():
            click.echo(f"  {name:6} {run['outside']:7.2f} s  {run['peak_memory_mb']} MB  {run['seconds']}")
    click.echo(f"record: {write_record(record, out)}")


def _case(text: str) -> tuple[int, Restore]:
    """Read `7:nearest`."""
    count, _, restore = text.partition(":")
    if not count.isdigit() or restore not in ("smooth", "nearest"):
        raise click.UsageError(f"--case {text!r}: expected STRUCTURES:smooth or STRUCTURES:nearest.")
    return int(count), "smooth" if restore == "smooth" else "nearest"


@click.command(hidden=True)
@click.argument("name", type=click.Choice(["gcis", "monai"]))
def outside_pipeline(name: str) -> None:
    """Run one pipeline of `outside`; its setting comes as JSON on stdin."""
    import sys

    import msgspec

    from benchmarks.outside_pipelines import Setting, run_pipeline

    setting = msgspec.json.decode(sys.stdin.buffer.read(), type=Setting)
    click.echo(msgspec.json.encode(run_pipeline(name, setting)).decode())


COMMANDS = (restore, outside, outside_pipeline)
