"""Benchmarks of the runtime: `restore`, `outside`, `memory`, `engines`."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.records import RESULTS, write_record

if TYPE_CHECKING:
    from benchmarks.memory import Run
    from gcis_runtime.sliding.labeller import Restore


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
@click.option(
    "--case",
    "cases",
    multiple=True,
    default=("1:smooth", "7:nearest", "7:nearest:0.25"),
    show_default=True,
    help="STRUCTURES:smooth|nearest[:OVERLAP]; repeat. MONAI's smooth way back takes GBs a structure.",
)
@click.option("--repeats", default=1, show_default=True, help="Runs of each pipeline.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def outside(out: Path, cases: tuple[str, ...], **options: Any) -> None:
    """Time everything outside the network against MONAI around the same trivial predictor."""
    from benchmarks.outside import compare

    with tempfile.TemporaryDirectory() as folder:
        record = compare(cases=[_case(text) for text in cases], folder=Path(folder), **options)
    for row in record["rows"]:
        what = f"{row['structures']} structures, {row['restore']:8} overlap {row['overlap']}"
        if "failed" in row:
            click.echo(f"{what}: not compared ({'; '.join(row['failed'])})")
            continue
        click.echo(
            f"{what}: {row['times_faster']:.1f} times faster ({row['times_faster_cpu']:.1f} in CPU time), "
            f"labels equal {row['labels_equal']:.4%}"
        )
        for name, (run, *_) in row["runs"].items():
            click.echo(f"  {name:6} {run['outside']:7.2f} s  {run['peak_memory_mb']} MB  {run['seconds']}")
    click.echo(f"record: {write_record(record, out)}")


def _case(text: str) -> tuple[int, Restore, float]:
    """Read `7:nearest` or `7:nearest:0.25`."""
    match = re.fullmatch(r"(\d+):(smooth|nearest)(?::(0\.\d+))?", text)
    if match is None:
        raise click.UsageError(f"--case {text!r}: expected STRUCTURES:smooth|nearest[:OVERLAP].")
    count, restore, overlap = match.groups()
    return int(count), "smooth" if restore == "smooth" else "nearest", float(overlap or 0.5)


@click.command(hidden=True)
@click.argument("name", type=click.Choice(["gcis", "monai"]))
def outside_pipeline(name: str) -> None:
    """Run one pipeline of `outside`; its setting comes as JSON on stdin."""
    import msgspec

    from benchmarks.outside_pipelines import Setting, run_pipeline

    setting = msgspec.json.decode(sys.stdin.buffer.read(), type=Setting)
    click.echo(msgspec.json.encode(run_pipeline(name, setting)).decode())


@click.command()
@click.option(
    "--run",
    "runs",
    multiple=True,
    default=("7", "7@1.0", "50@1.5", "50@1.0"),
    show_default=True,
    help="STRUCTURES[@SPACING][+masks]; 7 is the demo's network, other numbers have random weights.",
)
@click.option("--engine", default="openvino", show_default=True, help="Engine.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder that keeps volume and bundles.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def memory(runs: tuple[str, ...], engine: str, work: Path | None, out: Path) -> None:
    """Measure gcis-run's peak memory on 512 x 512 x 425 voxels."""
    from benchmarks.memory import measure

    chosen = [_run(text) for text in runs]
    with tempfile.TemporaryDirectory() as temporary:
        folder = work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        record = measure(chosen, engine=engine, folder=folder)
    for row in record["rows"]:
        where = "its own" if row["spacing"] is None else f"{row['spacing']} mm"
        what = f"{row['structures']} structures, grid {where}{', masks' if row['masks'] else ''}"
        click.echo(f"{what}: {row.get('failed') or str(row['peak_memory_mb']) + ' MB'}")
    click.echo(f"record: {write_record(record, out)}")


def _run(text: str) -> Run:
    """Read `50@1.5+masks`."""
    from benchmarks.memory import Run

    match = re.fullmatch(r"(\d+)(?:@(\d+(?:\.\d+)?))?(\+masks)?", text)
    if match is None:
        raise click.UsageError(f"--run {text!r}: expected STRUCTURES[@SPACING][+masks].")
    count, spacing, masks = match.groups()
    return Run(structures=int(count), spacing=None if spacing is None else float(spacing), masks=bool(masks))


@click.command(hidden=True)
@click.argument("what", type=click.Choice(["volume", "bundle"]))
@click.argument("path", type=click.Path(path_type=Path))
def memory_prepare(what: str, path: Path) -> None:
    """Write the volume or a bundle of `memory`; its setting comes as JSON on stdin."""
    import msgspec

    from benchmarks.memory import Run, prepare_bundle, prepare_volume

    if what == "volume":
        prepare_volume(path)
    else:
        prepare_bundle(path, msgspec.json.decode(sys.stdin.buffer.read(), type=Run))


@click.command()
@click.option("--bundle", default="demo", show_default=True, help="Bundle.")
@click.option("--rounds", default=2, show_default=True, help="Pairs of a first and a second start.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def engines(bundle: str, rounds: int, out: Path) -> None:
    """Time starts of OpenVINO with and without its cached model, and builds of TensorRT-RTX engines."""
    from benchmarks.engines import measure

    record = measure(bundle, rounds=rounds)
    for precision, row in record["openvino_start"].items():
        if "unavailable" in row:
            click.echo(f"openvino {precision}: {row['unavailable']}")
            continue
        first, second = row["first_seconds"], row["second_seconds"]
        click.echo(f"openvino {precision}: first start {first:.2f} s, second {second:.2f} s")
    for row in record["tensorrt_rtx"]:
        click.echo(f"trt-rtx: {row.get('unavailable') or '{graph} {device} {seconds} s'.format(**row)}")
    click.echo(f"record: {write_record(record, out)}")


COMMANDS = (restore, outside, outside_pipeline, memory, memory_prepare, engines)
