"""Benchmarks for planning, beside others, and for watching: `scale`, `peers`, `counted`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.peers_run import PEERS
from benchmarks.records import RESULTS, write_record
from benchmarks.scale_plan import AXES, Axis
from gcis_runtime.errors import GcisError


@click.command()
@click.option("--check", is_flag=True, help="Compare with the last record and write nothing.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def counted(check: bool, out: Path) -> None:
    """Count work: windows, operators, FLOPs, memory, instructions (with valgrind); --check is for CI."""
    from benchmarks.counted import comparable, compare, last_record, measure

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
            fix="Find out why; where it is wanted, renew the record: python -m benchmarks counted",
        )
    if found:
        click.echo("less work than in the record: renew it with python -m benchmarks counted")


@click.command()
@click.option("--bundle", default="demo", show_default=True, help="Bundle.")
@click.option("--axis", "axes", multiple=True, type=click.Choice(AXES), help="Only this axis; repeat. [all]")
@click.option("--spacing", type=float, default=2.5, show_default=True, help="The network's voxel size in mm.")
@click.option("--engine", default="auto", show_default=True, help="Engine.")
@click.option("--precision", default="auto", show_default=True, help="Precision.")
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Runs of each row.")
@click.option(
    "--scan", type=(int, int, int), default=(512, 512, 400), show_default=True, help="Shape to plan for."
)
@click.option("--scans", type=click.IntRange(1), default=1000, show_default=True, help="Scans to plan for.")
@click.option(
    "--nodes", multiple=True, type=click.IntRange(1), default=(1, 4, 16), show_default=True, help="Repeat."
)
@click.option("--price", type=click.FloatRange(0), help="Of a node for an hour; without it no cost is said.")
@click.option("--quick", is_flag=True, help="Two small values an axis: whether it works.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder that keeps volumes and bundles.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
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
    """Measure cost against volume, overlap, prompts, threads, cohort and workers; plan a cohort.

    Writes a JSON record and a picture; some eight minutes on two cores. The plan needs the axes volume and
    workers.
    """
    from benchmarks.scale import AXES_OF_A_PLAN, Setting, measure
    from benchmarks.scale_plan import default_plan, quick_plan
    from benchmarks.scale_plots import draw, slope_text
    from benchmarks.throughput import model
    from gcis_runtime.system.cpus import usable_cpus

    chosen = quick_plan() if quick else default_plan(usable_cpus())
    with tempfile.TemporaryDirectory() as temporary:
        folder = (work or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        setting = Setting(
            bundle=bundle, spacing=spacing, engine=engine, precision=precision, repeats=repeats, folder=folder
        )
        record = measure(chosen, axes or AXES, setting, say=lambda line: click.echo(line, err=True))
    for axis, lines in record["fits"].items():
        for line in lines:
            click.echo(f"{axis:8} {line['y']} = {slope_text(line)}, x {line['x']}, R2 {line['r2']:.3f}")
    if record["rows"].keys() >= AXES_OF_A_PLAN:
        record["plan"] = model(record, scan=scan, scans=scans, nodes=nodes, price=price)
        _say_plan(record["plan"])
    path = write_record(record, out)
    draw(record, path.with_suffix(".png"))
    click.echo(f"record: {path}, picture: {path.with_suffix('.png').name}")


def _say_plan(plan: dict[str, Any]) -> None:
    """Print the model with all that it assumes."""
    click.echo(f"\n{plan['scans']} scans of {' x '.join(map(str, plan['scan']))} voxels, modelled from")
    for name, value in plan["constants"].items():
        click.echo(f"  {name.replace('_', ' ')}: {value if isinstance(value, str) else format(value, '.4g')}")
    for row in plan["rows"]:
        cost = row.get("cost_per_1000_scans")
        said = "no --price given" if cost is None else f"{cost:.2f} per 1000 scans"
        click.echo(
            f"  {row['nodes']:4d} nodes: {row['hours']:.2f} h, {row['scans_per_hour']:.0f} scans an hour, "
            f"{row['node_hours']:.2f} node hours, {said}"
        )
    click.echo("assuming that")
    for line in plan["assumptions"]:
        click.echo(f"  - {line}")


@click.command("peers")
@click.option("--feature-size", default=12, show_default=True, help="Of our network and of SwinUNETR.")
@click.option("--roi", default=64, show_default=True, help="Window of all, in voxels.")
@click.option("--overlap", default=0.5, show_default=True, help="Of windows.")
@click.option(
    "--shape", type=(int, int, int), default=(128, 128, 96), show_default=True, help="Voxels, of 1.5 mm."
)
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True, help="Turns of each peer.")
@click.option(
    "--peer", "peers", multiple=True, type=click.Choice(list(PEERS)), help="Only this; repeat. [all]"
)
@click.option("--work", type=click.Path(path_type=Path), help="Folder that keeps the volume and our bundle.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def peers_command(
    feature_size: int,
    roi: int,
    overlap: float,
    shape: tuple[int, int, int],
    rounds: int,
    peers: tuple[str, ...],
    work: Path | None,
    out: Path,
) -> None:
    """Time and memory beside SwinUNETR and nnU-Net, with random weights: no accuracy.

    Says what is not installed. nnU-Net: pip install nnunetv2, in an environment of its own.
    """
    from benchmarks.peers import compare

    with tempfile.TemporaryDirectory() as temporary:
        folder = (work or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        record = compare(
            feature_size=feature_size, roi=roi, overlap=overlap, shape=shape, rounds=rounds,
            peers=peers or tuple(PEERS), folder=folder, say=lambda line: click.echo(line, err=True),
        )  # fmt: skip
    click.echo(f"{record['windows']} windows; random weights: time and memory only")
    for row in record["rows"]:
        said = row.get("unavailable")
        numbers = "" if said else f"{row['seconds']:8.2f} s  {row['peak_memory_mb']:6d} MB"
        click.echo(f"{numbers or 'not run: ' + said}  {row['peer']}")
    click.echo(f"record: {write_record(record, out)}")


COMMANDS = (scale, peers_command, counted)
