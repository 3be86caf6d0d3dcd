"""Implement the command `scale`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.options import bundle_option, record_folder, show_step
from benchmarks.scale.plan import AXES, Axis
from gcis_runtime.latency.record_file import write_record


@click.command()
@bundle_option
@click.option(
    "--axis", "axes", multiple=True, type=click.Choice(AXES), help="Only this axis; repeat for more [all]."
)
@click.option(
    "--spacing", type=float, default=2.5, show_default=True, help="Voxel size of the network's grid in mm."
)
@click.option("--engine", default="auto", show_default=True, help="Engine.")
@click.option("--precision", default="auto", show_default=True, help="Precision.")
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Runs of each row.")
@click.option(
    "--ray",
    metavar="auto|ADDRESS",
    help="Only compare one process, two shards, and this Ray cluster with two CPUs on this machine.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Rounds of --ray.")
@click.option("--quick", is_flag=True, help="Two small values per axis, to test the command.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder that keeps volumes and bundles.")
@record_folder
def scale(
    bundle: str,
    axes: tuple[Axis, ...],
    spacing: float,
    engine: str,
    precision: str,
    repeats: int,
    ray: str | None,
    rounds: int,
    quick: bool,
    work: Path | None,
    out: Path,
) -> None:
    """Measure cost against volume, overlap, prompts, threads, images and processes.

    Writes a JSON record and a picture, in about eight minutes on two cores. With --ray, the record compares a
    Ray cluster and shards with one process instead.
    """
    from benchmarks.scale.fleet import measure_fleet
    from benchmarks.scale.measure import Setting, measure
    from benchmarks.scale.plan import default_plan, quick_plan
    from benchmarks.scale.plots import draw, slope_text
    from gcis_runtime.system.cpus import usable_cpus

    chosen = quick_plan() if quick else default_plan(usable_cpus())
    with tempfile.TemporaryDirectory() as temporary:
        folder = (work or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if ray is not None:
            images = (1, 2) if quick else (2, 8)
            found = measure_fleet(
                bundle, ray, folder, images=images, rounds=rounds, engine=engine, on_step=show_step
            )
            _print_fleet(found)
            click.echo(f"record: {write_record(found, out)}")
            return
        setting = Setting(
            bundle=bundle, spacing=spacing, engine=engine, precision=precision, repeats=repeats, folder=folder
        )
        record = measure(chosen, axes or AXES, setting, on_step=show_step)
    for axis, lines in record["fits"].items():
        for line in lines:
            click.echo(f"{axis:8} {line['y']} = {slope_text(line)}, x {line['x']}, R2 {line['r2']:.3f}")
    path = write_record(record, out)
    draw(record, path.with_suffix(".png"))
    click.echo(f"record: {path}, picture: {path.with_suffix('.png').name}")


def _print_fleet(record: dict[str, Any]) -> None:
    """Print seconds and CPU seconds per image, and of the start."""
    for row in record["per_image"]:
        click.echo(
            f"{row['way']:12} {row['seconds_per_image']:.2f} s per image, {row['seconds_of_start']:.2f} s to "
            f"start; CPU {row['cpu_seconds_per_image']:.2f} s per image, "
            f"{row['cpu_seconds_of_start']:.2f} s to start"
        )
    click.echo("assumptions for other numbers of workers and scans:")
    for line in record["assumptions"]:
        click.echo(f"  - {line}")
