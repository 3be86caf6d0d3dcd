"""Commands `latency` and `compare`, and the processes that they start."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.records import RESULTS, write_record

if TYPE_CHECKING:
    from benchmarks.ladder import Structures


@click.command()
@click.option(
    "--bundle", "bundles", multiple=True, default=("demo",), show_default=True, help="Repeat for more."
)
@click.option("--image", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="CT [a phantom].")
@click.option("--phantom", "seed", default=7, show_default=True, help="Phantom's seed.")
@click.option(
    "--rounds", type=click.IntRange(1), default=2, show_default=True, help="Processes of each engine."
)
@click.option(
    "--warmup", type=click.IntRange(1), default=1, show_default=True, help="Runs before timed ones."
)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Timed runs a process.")
@click.option("--int8/--no-int8", default=True, show_default=True, help="Make int8 where no bundle has it.")
@click.option(
    "--product", type=click.IntRange(8), default=2048, hidden=True, help="Rows of the ceiling's matrix."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder of the report.")
def latency(
    bundles: tuple[str, ...],
    image: Path | None,
    seed: int,
    rounds: int,
    warmup: int,
    repeats: int,
    int8: bool,
    product: int,
    out: Path,
) -> None:
    """Time, memory and accuracy of every engine and precision on one CT, as one page.

    The folder gets index.html with its pictures, latency.md and the JSON record. The reference is the first
    bundle's network in PyTorch, float32.
    """
    from benchmarks.latency import Settings, measure
    from benchmarks.latency_report import write_report
    from gcis_runtime.system.atomic_files import check_writable

    check_writable(out / "index.html")
    settings = Settings(rounds=rounds, warmup=warmup, repeats=repeats, int8=int8, seed=seed, product=product)
    record = measure(bundles, image, settings, say=_aside)
    for row in record.rows:
        click.echo(
            f"{row.total.p50:8.2f} s  labels equal {row.labels_equal:.4%}  {row.peak_memory_mb or 0:6d} MB  "
            f"{row.windows_per_second:6.2f} windows/s  {row.gflops:6.1f} GFLOP/s  {row.name}"
        )
    for missing in record.missing:
        click.echo(f"{missing.name}: not measured ({missing.reason})")
    click.echo(f"page: {write_report(record, out)}")


@click.command()
@click.option("--case", help="FEATURE_SIZE/ROI with seeded weights, such as 48/96 [the bundle's network].")
@click.option(
    "--bundle", default="demo", show_default=True,
    help="Gives the trained weights; to --case its structures and what their pathways share.",
)  # fmt: skip
@click.option("--image", type=click.Path(path_type=Path), help="CT for the bundle [a phantom].")
@click.option("--phantom", "seed", default=7, show_default=True, help="Phantom's seed.")
@click.option(
    "--windows", type=(int, int, int), default=(2, 2, 2), show_default=True, help="Of --case, one structure."
)
@click.option(
    "--windows-all",
    type=(int, int, int),
    default=(2, 1, 1),
    show_default=True,
    help="Of --case, all of them.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Turns of each engine.")
@click.option(
    "--slow-rounds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Turns of the ways in PyTorch.",
)
@click.option(
    "--calibration", type=click.IntRange(1), help="INT8 windows of each of two phantoms [4, --case 1]."
)
@click.option(
    "--structures", type=click.Choice(["one", "all", "both"]), default="both", show_default=True,
    help="Ladders: the bundle's first structure alone, all in one label map, or both.",
)  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def compare(
    case: str | None,
    bundle: str,
    image: Path | None,
    seed: int,
    windows: tuple[int, int, int],
    windows_all: tuple[int, int, int],
    rounds: int,
    slow_rounds: int,
    calibration: int | None,
    structures: Structures,
    out: Path,
) -> None:
    """The ladder: published semantics, routed, static, and every engine, same weights and volume, in turns.

    Without --case the weights are the bundle's, trained. --case 48/96 has seeded weights, for time alone, and
    takes some 7 GB and 20 minutes on two cores, half of it with --structures one.
    """
    from benchmarks.ladder import trained, untrained
    from benchmarks.ladder_steps import Settings

    if case is not None and image is not None:
        raise click.UsageError("--image goes with a bundle's network; --case has a tiled phantom.")
    calibration = calibration or (4 if case is None else 1)
    settings = Settings(rounds=rounds, slow_rounds=slow_rounds, calibration=calibration)
    if case is None:
        record = trained(bundle, seed=seed, image=image, structures=structures, settings=settings, say=_aside)
    else:
        size, roi = read_case(case)
        record = untrained(
            size, roi, bundle=bundle, structures=structures, windows=(windows, windows_all), seed=seed,
            settings=settings, say=_aside,
        )  # fmt: skip
    for ladder in record["ladders"]:
        click.echo(f"{len(ladder['prompts'])} structures, {ladder['voxels']} voxels")
        for row in ladder["rows"]:
            click.echo(f"  {_ladder_line(row, trained=record['trained'])}")
    click.echo(f"record: {write_record(record, out)}")


def read_case(text: str) -> tuple[int, int]:
    """Read `48/96`."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise click.UsageError(f"--case is FEATURE_SIZE/ROI such as 48/96, not {text!r}.")
    return int(match[1]), int(match[2])


def _ladder_line(row: dict[str, Any], *, trained: bool) -> str:
    """Say a way's time and ratio; of labels too where weights were trained: elsewhere they mean nothing."""
    if "unavailable" in row:
        return f"{row['title']}: not measured ({row['unavailable']})"
    ratio = row["times_faster"]
    faster = f"{ratio['median']:6.1f} x ({ratio['least']:.1f} to {ratio['most']:.1f})" if ratio else ""
    equal = row["agreement"].get("static", {}).get("labels_equal")
    same = f"  labels equal {equal:.4%}" if trained and equal is not None else ""
    return f"{row['whole_seconds']:8.2f} s {faster}{same}  {row['title']}"


@click.command()
def schema() -> None:
    """Write the JSON Schema of the latency record again."""
    from benchmarks.latency_record import schema_text
    from gcis_runtime.system.atomic_files import replacing

    with replacing(RESULTS.parents[1] / "docs" / "schema" / "latency.v1.schema.json") as temporary:
        temporary.write_text(schema_text())


@click.command(hidden=True)
def engine_run() -> None:
    """Measure one engine; its `Run` comes as JSON on stdin."""
    import msgspec

    from benchmarks.engine_run import Run, measure

    click.echo(json.dumps(measure(msgspec.json.decode(sys.stdin.buffer.read(), type=Run))))


@click.command(hidden=True)
def ladder_way() -> None:
    """Measure one way in PyTorch; its `Way` comes as JSON on stdin."""
    import msgspec

    from benchmarks.ladder_ways import Way, measure

    click.echo(json.dumps(measure(msgspec.json.decode(sys.stdin.buffer.read(), type=Way))))


def _aside(line: str) -> None:
    """Tell what is happening, beside the result."""
    click.echo(line, err=True)


COMMANDS = (latency, compare, schema, engine_run, ladder_way)
