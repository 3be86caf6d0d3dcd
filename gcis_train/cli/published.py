"""Implement the command `gcis-train export-published`."""

from __future__ import annotations

from pathlib import Path

import click

from gcis_runtime.system.console import echo, out_option


@click.command("export-published")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    required=True,
    help="Routed or single-task checkpoint, or run folder.",
)
@out_option(
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="File to write: model.pt of a routed checkpoint, params.pth of a single task.",
)
def export_published(checkpoint: Path, out: Path) -> None:
    """Convert a checkpoint to a file that the published program loads.

    Prompts, pre-processing and window are not part of such a file; the command prints them.
    """
    from gcis_train.weights import checkpoint as checkpoints
    from gcis_train.weights.export_published import export_published as export

    found = checkpoints.load(checkpoint)
    warnings = export(found, out)
    config = found.config
    kind = "routed" if config.kind == "routed" else "single task"
    echo(f"{out}: {kind}, feature size {config.network.feature_size}")
    if found.prompts:
        echo(f"prompts: {', '.join(found.prompts)}")
    if (settings := config.preprocess) is not None:
        sizes = " x ".join(f"{v:g}" for v in settings.spacing or ())
        size = f"{sizes} mm" if sizes else "as in the file"
        low, high = settings.intensity_window
        echo(f"voxel size {size}, {low:g} to {high:g} HU mapped to 0 and 1")
    if config.window is not None:
        echo(f"window {' x '.join(map(str, config.window.patch_size))} voxels")
    for line in warnings:
        echo(f"gcis-train: warning: {line}", err=True)
