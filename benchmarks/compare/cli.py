"""Implement the command `compare`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.options import record_folder, show_step
from gcis_runtime.latency.record_file import write_record

if TYPE_CHECKING:
    from benchmarks.compare.ladder import Structures


@click.command()
@click.option(
    "--case", help="FEATURE_SIZE/ROI with seeded weights, such as 48/96 [the network of the bundle]."
)
@click.option(
    "--bundle", default="demo", show_default=True,
    help="Bundle of the trained weights; with --case, of the structures and their pathways.",
)  # fmt: skip
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    help="CT file for the network of the bundle [a generated phantom].",
)
@click.option("--phantom", "seed", default=7, show_default=True, help="Seed of the phantom.")
@click.option(
    "--windows",
    type=(int, int, int),
    default=(2, 2, 2),
    show_default=True,
    help="Windows along X, Y, Z with --case and one structure.",
)
@click.option(
    "--windows-all",
    type=(int, int, int),
    default=(2, 1, 1),
    show_default=True,
    help="The same with all structures.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Turns of each engine.")
@click.option(
    "--slow-rounds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Turns of each pipeline in PyTorch.",
)
@click.option(
    "--calibration",
    type=click.IntRange(1),
    help="Windows of each of two phantoms that calibrate INT8 [4; with --case 1].",
)
@click.option(
    "--structures", type=click.Choice(["one", "all", "both"]), default="both", show_default=True,
    help="Only the first structure, all structures in one label map, or both.",
)  # fmt: skip
@record_folder
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
    """Compare published evaluation, routed network, static network and every engine on one volume, in turns.

    All pipelines have the same weights: those of the bundle, or seeded weights with --case, which serve for
    time only. --case 48/96 takes 7 GB and 20 minutes on two cores, and half of that with --structures one.
    """
    from benchmarks.compare.ladder import trained, untrained
    from benchmarks.compare.steps import Settings

    if case is not None and image is not None:
        raise click.UsageError("--image is for the network of a bundle; --case uses a tiled phantom.")
    calibration = calibration or (4 if case is None else 1)
    settings = Settings(rounds=rounds, slow_rounds=slow_rounds, calibration=calibration)
    if case is None:
        record = trained(
            bundle, seed=seed, image=image, structures=structures, settings=settings, on_step=show_step
        )
    else:
        size, roi = read_case(case)
        record = untrained(
            size, roi, bundle=bundle, structures=structures, windows=(windows, windows_all), seed=seed,
            settings=settings, on_step=show_step,
        )  # fmt: skip
    for ladder in record["ladders"]:
        click.echo(f"{len(ladder['prompts'])} structures, {ladder['voxels']} voxels")
        for row in ladder["rows"]:
            click.echo(f"  {_line(row, trained=record['trained'])}")
    click.echo(f"record: {write_record(record, out)}")


def read_case(text: str) -> tuple[int, int]:
    """Parse `FEATURE_SIZE/ROI`, such as `48/96`."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise click.UsageError(f"--case is FEATURE_SIZE/ROI such as 48/96, not {text!r}.")
    return int(match[1]), int(match[2])


def _line(row: dict[str, Any], *, trained: bool) -> str:
    """Describe time, ratio and, with trained weights, agreement of a row."""
    if "unavailable" in row:
        return f"{row['title']}: not measured ({row['unavailable']})"
    ratio = row["times_faster"]
    faster = f"{ratio['median']:6.1f} x ({ratio['least']:.1f} to {ratio['most']:.1f})" if ratio else ""
    equal = row["agreement"].get("static", {}).get("labels_equal")
    same = f"  labels equal {equal:.4%}" if trained and equal is not None else ""
    return f"{row['whole_seconds']:8.2f} s {faster}{same}  {row['title']}"
