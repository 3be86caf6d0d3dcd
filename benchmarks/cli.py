"""Define the benchmark commands, `python -m benchmarks COMMAND`, for use in a checkout."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks.compare.cli import compare
from benchmarks.counted.cli import counted
from benchmarks.options import bundle_option, record_folder, show_step
from benchmarks.peers.cli import peers
from benchmarks.records import RESULTS
from benchmarks.scale.cli import scale
from gcis_runtime.latency.record_file import write_record
from gcis_runtime.system.console import command_group, out_option


@command_group("benchmarks")
def main() -> None:
    """Measure gCIS on this machine. Research software, not a medical device."""


@main.command()
@click.option(
    "--bundle", "bundles", multiple=True, default=("demo",), show_default=True,
    help="Folder or name of a bundle; repeat for more bundles of one network.",
)  # fmt: skip
@click.option(
    "--image",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CT file [a generated phantom].",
)
@click.option("--phantom", "seed", default=7, show_default=True, help="Seed of the phantom.")
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True, help="Processes per engine.")
@click.option(
    "--warmup", type=click.IntRange(1), default=1, show_default=True, help="Warm-up runs per process."
)
@click.option(
    "--repeats", type=click.IntRange(1), default=5, show_default=True, help="Timed runs per process."
)
@click.option(
    "--int8/--no-int8", default=True, show_default=True, help="Write an int8 graph if no bundle has one."
)
@click.option(
    "--product", type=click.IntRange(8), default=2048, hidden=True, help="Rows of the matrix of the ceiling."
)
@out_option(required=True, help="Folder of the report.")
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
    """Measure time, memory and agreement of each engine on one CT, and write a report.

    The report is that of gcis-bundle latency, with the network in PyTorch as the reference and with int8.
    """
    from benchmarks.latency import measure
    from gcis_runtime.latency.measure import Settings
    from gcis_runtime.latency.report import write_report
    from gcis_runtime.pages.renderer import check_renderer
    from gcis_runtime.system.rehearsal import check_writable

    check_renderer()
    check_writable(out / "index.html")
    settings = Settings(rounds=rounds, warmup=warmup, repeats=repeats, seed=seed, product=product)
    record = measure(bundles, image, settings, int8=int8, on_step=show_step)
    for row in record.rows:
        click.echo(f"{row.total.p50:8.2f} s  labels equal {row.labels_equal:.4%}  {row.name}")
    for missing in record.missing:
        click.echo(f"{missing.name}: not measured ({missing.reason})")
    click.echo(f"page: {write_report(record, out)}")


@main.command()
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Checkpoint or run folder [the network of the bundle].",
)
@bundle_option
@click.option(
    "--image", "images", multiple=True, type=click.Path(path_type=Path), help="CT file; repeat for more."
)
@click.option("--phantom", "phantoms", multiple=True, type=int, help="Seed of a phantom; repeat for more.")
@click.option("--engine", "engines", multiple=True, help="Engine; repeat for more [onnx, openvino].")
@click.option(
    "--variants",
    is_flag=True,
    help="Also flip, permute, rotate, shear and thin out the slices of each phantom and of the first image.",
)
@record_folder
def agreement(
    checkpoint: Path | None,
    bundle: str,
    images: tuple[Path, ...],
    phantoms: tuple[int, ...],
    engines: tuple[str, ...],
    variants: bool,
    out: Path,
) -> None:
    """Compare the labels of the runtime with those of PyTorch and MONAI in float32, voxel by voxel."""
    if not (images or phantoms):
        raise click.UsageError("There is nothing to compare: pass --image or --phantom.")
    from benchmarks.agreement import WANTED, compare
    from benchmarks.recover import checkpoint_or_recovered

    with tempfile.TemporaryDirectory() as folder:
        record = compare(
            checkpoint_or_recovered(checkpoint, bundle, Path(folder)),
            images,
            phantoms=phantoms,
            variants=variants,
            engines=engines or ("onnx", "openvino"),
            folder=Path(folder),
        )
    for row in record["rows"]:
        low = "" if row["equal"] >= WANTED else f"  BELOW {WANTED:.2%}"
        click.echo(
            f"{row['equal']:.5%} of {row['voxels']} voxels, {row['unequal']} unequal  {row['engine']}"
            f"  {row['restore']}  {row['image']}, {row['variant']}{low}"
        )
    click.echo(f"lowest {record['lowest']:.5%}; record: {write_record(record, out)}")


@main.command()
def tables() -> None:
    """Write the tables of README.md and docs/performance.md from the committed records."""
    from benchmarks.tables import write_documents

    write_documents()


@main.command()
def schema() -> None:
    """Write the JSON Schema of the latency record to docs/schema."""
    from gcis_runtime.latency.record import schema_text
    from gcis_runtime.system.atomic_files import replacing

    with replacing(RESULTS.parents[1] / "docs" / "schema" / "latency.v1.schema.json") as temporary:
        temporary.write_text(schema_text())


for _command in (compare, scale, peers, counted):
    main.add_command(_command)
