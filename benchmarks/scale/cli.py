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
    "--scan", type=(int, int, int), default=(512, 512, 400), show_default=True, help="Shape to plan for."
)
@click.option("--scans", type=click.IntRange(1), default=1000, show_default=True, help="Scans to plan for.")
@click.option(
    "--nodes",
    multiple=True,
    type=click.IntRange(1),
    default=(1, 4, 16),
    show_default=True,
    help="Number of nodes; repeat for more.",
)
@click.option(
    "--price", type=click.FloatRange(0), help="Price of a node for one hour; without it, no cost is given."
)
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
    scan: tuple[int, int, int],
    scans: int,
    nodes: tuple[int, ...],
    price: float | None,
    quick: bool,
    work: Path | None,
    out: Path,
) -> None:
    """Measure cost against volume, overlap, prompts, threads, images and processes, and plan a cohort.

    Writes a JSON record and a picture, in about eight minutes on two cores. The plan needs the axes volume
    and workers.
    """
    from benchmarks.scale.measure import AXES_OF_A_PLAN, Setting, measure
    from benchmarks.scale.plan import default_plan, quick_plan
    from benchmarks.scale.plots import draw, slope_text
    from benchmarks.scale.throughput import model
    from gcis_runtime.system.cpus import usable_cpus

    chosen = quick_plan() if quick else default_plan(usable_cpus())
    with tempfile.TemporaryDirectory() as temporary:
        folder = (work or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        setting = Setting(
            bundle=bundle, spacing=spacing, engine=engine, precision=precision, repeats=repeats, folder=folder
        )
        record = measure(chosen, axes or AXES, setting, on_step=show_step)
    for axis, lines in record["fits"].items():
        for line in lines:
            click.echo(f"{axis:8} {line['y']} = {slope_text(line)}, x {line['x']}, R2 {line['r2']:.3f}")
    if record["rows"].keys() >= AXES_OF_A_PLAN:
        record["plan"] = model(record, scan=scan, scans=scans, nodes=nodes, price=price)
        _print_plan(record["plan"])
    path = write_record(record, out)
    draw(record, path.with_suffix(".png"))
    click.echo(f"record: {path}, picture: {path.with_suffix('.png').name}")


def _print_plan(plan: dict[str, Any]) -> None:
    """Print the model with its assumptions."""
    click.echo(f"\n{plan['scans']} scans of {' x '.join(map(str, plan['scan']))} voxels, modelled from")
    for name, value in plan["constants"].items():
        click.echo(f"  {name.replace('_', ' ')}: {value if isinstance(value, str) else format(value, '.4g')}")
    for row in plan["rows"]:
        cost = row.get("cost_per_1000_scans")
        price = "no --price given" if cost is None else f"{cost:.2f} per 1000 scans"
        click.echo(
            f"  {row['nodes']:4d} nodes: {row['hours']:.2f} h, {row['scans_per_hour']:.0f} scans per hour, "
            f"{row['node_hours']:.2f} node hours, {price}"
        )
    click.echo("assumptions:")
    for line in plan["assumptions"]:
        click.echo(f"  - {line}")
