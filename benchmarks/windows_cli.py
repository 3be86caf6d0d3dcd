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


@click.command()
@click.option("--bundle", default="demo", show_default=True, help="Bundle.")
@click.option(
    "--image", "images", multiple=True, required=True, type=click.Path(path_type=Path), help="CT; repeat."
)
@click.option(
    "--label", "labels", multiple=True, type=click.Path(path_type=Path), help="Its true labels; repeat."
)
@click.option("--structure", help="Of the row --roi STRUCTURE [the bundle's first].")
@click.option("--spacing", type=float, help="Voxel size in mm to run at in place of the bundle's own.")
@click.option("--crop-foreground", "margin", type=int, help="Margin of a rule in place of the bundle's own.")
@click.option("--engine", default="auto", show_default=True, help="Engine.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def windows(
    bundle: str,
    images: tuple[Path, ...],
    labels: tuple[Path, ...],
    structure: str | None,
    spacing: float | None,
    margin: int | None,
    engine: str,
    out: Path,
) -> None:
    """Windows and time that body crop, coarse passes and regions save, and labels that they change."""
    from benchmarks.windows import measure

    if labels and len(labels) != len(images):
        raise click.UsageError("Give one --label an --image, in their order, or none.")
    record = measure(
        bundle,
        images,
        labels,
        engine=engine,
        structure=structure,
        spacing=spacing,
        margin=margin,
        say=lambda line: click.echo(line, err=True),
    )
    for row in record["sums"]:
        click.echo(
            f"{row['computed']:5d} windows computed, {row['constant']} constant, {row['skipped']} skipped  "
            f"{row['cpu_of_whole']:.2f} of the whole's CPU time  at most {row['most_labels_changed']:.4%} of "
            f"labels changed, Dice with whole {row['mean_dice_with_whole']}, with truth {row['mean_dice']}  "
            f"{row['way']}"
        )
    click.echo(f"record: {write_record(record, out)}")


COMMANDS = (start, windows)
