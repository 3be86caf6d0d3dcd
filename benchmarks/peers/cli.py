"""Implement the command `peers`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks.options import record_folder, show_step
from benchmarks.peers.run import PEERS
from gcis_runtime.latency.record_file import write_record


@click.command()
@click.option("--feature-size", default=12, show_default=True, help="Feature size of gCIS and SwinUNETR.")
@click.option("--roi", default=64, show_default=True, help="Side of the window in voxels.")
@click.option("--overlap", default=0.5, show_default=True, help="Overlap of windows.")
@click.option(
    "--shape",
    type=(int, int, int),
    default=(128, 128, 96),
    show_default=True,
    help="Shape of the volume, voxels of 1.5 mm.",
)
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True, help="Turns of each peer.")
@click.option(
    "--peer",
    "chosen",
    multiple=True,
    type=click.Choice(list(PEERS)),
    help="Only this peer; repeat for more [all].",
)
@click.option(
    "--work", type=click.Path(path_type=Path), help="Folder of the volume and the bundle, which are reused."
)
@record_folder
def peers(
    feature_size: int,
    roi: int,
    overlap: float,
    shape: tuple[int, int, int],
    rounds: int,
    chosen: tuple[str, ...],
    work: Path | None,
    out: Path,
) -> None:
    """Compare time and memory with SwinUNETR and nnU-Net, with random weights, so without accuracy.

    Peers that are not installed are listed. nnU-Net: pip install nnunetv2, in a separate environment.
    """
    from benchmarks.peers.measure import compare

    with tempfile.TemporaryDirectory() as temporary:
        folder = (work or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        record = compare(
            feature_size=feature_size, roi=roi, overlap=overlap, shape=shape, rounds=rounds,
            peers=chosen or tuple(PEERS), folder=folder, on_step=show_step,
        )  # fmt: skip
    click.echo(f"{record['windows']} windows; random weights: time and memory only")
    for row in record["rows"]:
        reason = row.get("unavailable")
        numbers = "" if reason else f"{row['seconds']:8.2f} s  {row['peak_memory_mb']:6d} MB"
        click.echo(f"{numbers or 'not run: ' + reason}  {row['peer']}")
    click.echo(f"record: {write_record(record, out)}")
