"""Benchmark commands: parse, call, print."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks.latency_cli import COMMANDS as LATENCY
from benchmarks.latency_cli import read_case
from benchmarks.records import RESULTS, write_record
from benchmarks.runtime_cli import COMMANDS
from benchmarks.scale_cli import COMMANDS as SCALE_COMMANDS
from benchmarks.windows_cli import COMMANDS as WINDOWS_COMMANDS
from gcis_runtime.system.console import command_group


@command_group("benchmarks")
def main() -> None:
    """Measure gCIS on this machine. Research software, not a medical device."""


@main.command()
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Routed checkpoint [the bundle's own network]."
)
@click.option("--bundle", default="demo", show_default=True, help="Bundle.")
@click.option("--seed", default=7, show_default=True, help="Phantom.")
@click.option("--repeats", default=3, show_default=True, help="Timed runs of gcis-run.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def phantom(checkpoint: Path | None, bundle: str, seed: int, repeats: int, out: Path) -> None:
    """Compare gcis-run with the routed network in PyTorch and MONAI, on a phantom."""
    from benchmarks.phantom import compare

    with tempfile.TemporaryDirectory() as folder:
        record = compare(checkpoint, bundle, seed=seed, repeats=repeats, folder=Path(folder))
    path = write_record(record, out)
    for row in record["rows"]:
        if "unavailable" in row:
            click.echo(f"{row['pipeline']}: not measured ({row['unavailable']})")
            continue
        extra = (
            f"  {row['speedup']:.1f} x  labels equal {row['labels_equal']:.4%}" if "speedup" in row else ""
        )
        click.echo(f"{row['seconds']:8.2f} s  Dice {row['dice']:.3f}  {row['pipeline']}{extra}")
    click.echo(f"record: {path}")


@main.command()
@click.option("--case", default="12/64", show_default=True, help="FEATURE_SIZE/ROI.")
@click.option("--rounds", default=2, show_default=True, help="Turns of each way, in a process of its own.")
@click.option("--repeats", default=2, show_default=True, help="Timed steps of a turn.")
@click.option("--warmup", default=1, show_default=True, help="Steps before the timed ones.")
@click.option("--threads", default=1, show_default=True, help="Threads of PyTorch.")
@click.option("--sharing/--no-sharing", default=True, help="Also what rows gain from each other.")
@click.option(
    "--keep-memory/--give-back",
    default=True,
    help="Time steps as in a training, freed memory kept.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def routing(
    case: str,
    rounds: int,
    repeats: int,
    warmup: int,
    threads: int,
    sharing: bool,
    keep_memory: bool,
    out: Path,
) -> None:
    """Compare a routed training step with the published sum over pathways.

    48/96 takes some 13 GB and minutes a step on two cores:
    --rounds 1 --repeats 1 --warmup 0 --no-sharing --give-back.
    """
    from benchmarks.routing import compare

    feature_size, roi = read_case(case)
    record = compare(
        feature_size=feature_size,
        roi=roi,
        rounds=rounds,
        repeats=repeats,
        warmup=warmup,
        threads=threads,
        sharing=sharing,
        keep_memory=keep_memory,
        progress=lambda line: click.echo(line, err=True),
    )
    path = write_record(record, out)
    for name, values in record["ratios"].items():
        click.echo(f"{name}: " + "  ".join(f"{key} {value:.3g}" for key, value in values.items()))
    click.echo(f"record: {path}")


@main.command()
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Checkpoint or run folder [the bundle's own network].",
)
@click.option("--bundle", default="demo", show_default=True, help="Bundle, where no checkpoint is given.")
@click.option(
    "--image", "images", multiple=True, type=click.Path(path_type=Path), help="CT; repeat for more."
)
@click.option("--phantom", "phantoms", multiple=True, type=int, help="Phantom's seed; repeat for more.")
@click.option("--engine", "engines", multiple=True, help="Engine; repeat for more [onnx, openvino].")
@click.option(
    "--variants",
    is_flag=True,
    help="Phantoms and the first image also flipped, permuted, oblique, tilted and in thick slices.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def agreement(
    checkpoint: Path | None,
    bundle: str,
    images: tuple[Path, ...],
    phantoms: tuple[int, ...],
    engines: tuple[str, ...],
    variants: bool,
    out: Path,
) -> None:
    """Compare the runtime's labels with PyTorch and MONAI, in float32, voxel for voxel."""
    if not (images or phantoms):
        raise click.UsageError("Give --image or --phantom.")
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
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Checkpoint or run folder [the bundle's own network].",
)
@click.option("--bundle", default="demo", show_default=True, help="Bundle, where no checkpoint is given.")
@click.option("--fresh", is_flag=True, help="Take initial weights in place of the checkpoint's.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def parity(checkpoint: Path | None, bundle: str, fresh: bool, out: Path) -> None:
    """Measure how far float64, the export graph and the engines are from the network in PyTorch."""
    from benchmarks.parity import measure
    from benchmarks.recover import checkpoint_or_recovered

    with tempfile.TemporaryDirectory() as folder:
        found = checkpoint_or_recovered(checkpoint, bundle, Path(folder))
        record = measure(found, fresh=fresh, folder=Path(folder), say=_aside)
    for row in record["rows"]:
        click.echo(
            f"{row['relative']:9.2e} of the range, labels changed {row['labels_changed']:.2e}, "
            f"decided {row['labels_decided']:.2e}  {row['stage']}, {row['window']}"
        )
    click.echo(f"record: {write_record(record, out)}")


@main.command()
@click.option("--spacing", default=1.5, show_default=True, help="Voxel size in mm to resample to.")
@click.option("--repeats", default=5, show_default=True, help="Turns of each way.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def cache(spacing: float, repeats: int, out: Path) -> None:
    """Compare the cache of pre-processed cases with none and with MONAI's PersistentDataset."""
    from benchmarks.cache import compare

    with tempfile.TemporaryDirectory() as folder:
        record = compare(spacing=spacing, repeats=repeats, folder=Path(folder))
    for name, seconds in record["seconds"].items():
        times = record["times_faster_than_no_cache"][name]
        click.echo(f"{seconds:8.3f} s  {times:6.2f} x  {name}")
    click.echo("  ".join(f"{name} {size / 1e6:.1f} MB" for name, size in record["bytes"].items()))
    click.echo(f"record: {write_record(record, out)}")


@main.command()
@click.option("--steps", default=40, show_default=True, help="Routed steps of each variant.")
@click.option("--seed", default=0, show_default=True, help="Seed of networks and windows.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def apart(steps: int, seed: int, out: Path) -> None:
    """Measure what keeps prompts apart in routed training, and what a static start saves."""
    from benchmarks.apart import measure

    record = measure(steps=steps, seed=seed)
    path = write_record(record, out)
    for row in record["rows"]:
        after = row["after"]
        click.echo(
            f"loss {row['test_loss']:.3f}  {after['distinct_pathways']} pathways"
            f"  agree {after['mean_agree']:.2f}"
            f"  undecided {after['mean_undecided']:.2f}  {row['variant']}"
        )
    click.echo(f"record: {path}")


@main.command()
@click.option("--feature-size", default=12, show_default=True, help="Of the network.")
@click.option("--roi", default=64, show_default=True, help="Window side.")
@click.option("--repeats", default=4, show_default=True, help="Timed steps of each precision.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def amp(feature_size: int, roi: int, repeats: int, out: Path) -> None:
    """Compare training steps in float32 and under bf16 autocast on this processor."""
    from benchmarks.amp import measure

    record = measure(feature_size=feature_size, roi=roi, repeats=repeats)
    path = write_record(record, out)
    for row in record["rows"]:
        differ = sum(row["same_step_twice"]["gradients_that_differ"].values())
        click.echo(f"{row['median']:8.3f} CPU s a step, {differ} gradients not reproduced  {row['amp']}")
    click.echo(f"bf16 takes {record['bf16_over_float32']['median']:.2f} of float32's time; record: {path}")


@main.command()
@click.option("--feature-size", default=48, show_default=True, help="Channels of the first stage.")
@click.option("--roi", default=96, show_default=True, help="Window in voxels.")
@click.option("--batch", "batches", type=int, multiple=True, help="Also our graph for this batch; repeat.")
@click.option("--rounds", default=3, show_default=True, help="Turns of each graph in each engine.")
@click.option("--threads", default=1, show_default=True, help="CPU threads.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def graph(
    feature_size: int, roi: int, batches: tuple[int, ...], rounds: int, threads: int, out: Path
) -> None:
    """Compare the exported graph with the exporter's own, with seeded weights.

    48/96 takes 6 GB and half a minute a turn on one core.
    """
    from benchmarks.graph import compare

    record = compare(
        feature_size=feature_size, roi=roi, batches=batches, rounds=rounds, threads=threads, say=_aside
    )
    path = write_record(record, out)
    for name, row in record["rows"].items():
        times = "  ".join(
            f"{engine} {run['cpu_seconds']:.2f} CPU s" for engine, run in row["engines"].items()
        )
        click.echo(f"{row['nodes']:5d} operators  {row['bytes'] / 1e6:7.1f} MB  {times}  {name}")
    click.echo(f"record: {path}")


@main.command()
@click.option("--feature-size", default=12, show_default=True, help="Channels of the first stage.")
@click.option("--roi", default=64, show_default=True, help="Window in voxels.")
@click.option(
    "--count", "counts", type=int, multiple=True, default=(1, 2, 4, 8, 12), show_default=True,
    help="Number of prompts; repeat.",
)  # fmt: skip
@click.option("--rounds", default=3, show_default=True, help="Turns of each graph in each engine.")
@click.option("--threads", default=1, show_default=True, help="CPU threads.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def prompts(
    feature_size: int, roi: int, counts: tuple[int, ...], rounds: int, threads: int, out: Path
) -> None:
    """Cost of N prompts in one bundle: pathways shared, partly shared and disjoint."""
    from benchmarks.prompts import cost

    counts = tuple(sorted({1, *counts}))
    record = cost(
        feature_size=feature_size, roi=roi, counts=counts, rounds=rounds, threads=threads, say=_aside
    )
    path = write_record(record, out)
    for row in record["rows"]:
        times = "  ".join(f"{e} {f['times_one_prompt']:.2f} x" for e, f in row["engines"].items())
        click.echo(
            f"{row['prompts']:3d} {row['kind']:14s} {row['nodes']:5d} operators  "
            f"{row['bytes'] / 1e6:6.1f} MB  {row['giga_multiplications']:7.2f} G  {times}"
        )
    click.echo(f"record: {path}")


def _aside(line: str) -> None:
    """Tell what is happening, beside the result."""
    click.echo(line, err=True)


@main.command()
def tables() -> None:
    """Write the tables of README and docs/performance.md again from the committed records."""
    from benchmarks.tables import write_documents

    write_documents()


for _command in (*COMMANDS, *SCALE_COMMANDS, *WINDOWS_COMMANDS, *LATENCY):
    main.add_command(_command)
