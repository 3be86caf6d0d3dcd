"""`gcis-train`: parse, call, print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gcis_runtime.console import command_group

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
ANY = click.Path(path_type=Path)


@command_group("gcis-train")
def main() -> None:
    """Train the routed CT segmentation network. Research software, not a medical device."""


def training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every training shares; what is not given comes from --config or the recipe."""
    options = [
        click.option("--datalist", type=FILE, required=True, help="Datalist JSON (training / validation rows)."),
        click.option("--run-dir", type=FOLDER, required=True, help="Folder of the run: checkpoints, logs, options."),
        click.option("--config", type=FILE, help="JSON file of options; flags override it."),
        click.option("--feature-size", type=int, help="Channels of the first stage, a multiple of 12 [48]."),
        click.option("--pathways", type=int, help="Residual blocks at each decoder position [6]."),
        click.option("--roi", help="Window in voxels: one number or three with commas [128]."),
        click.option("--spacing", help="Voxel size in mm: one number or three with commas [1]."),
        click.option("--orientation", help="Axis codes such as RAS; 'file' keeps the file's axes [file]."),
        click.option("--batch-size", type=int, help="Windows a step [1]."),
        click.option("--windows-per-case", type=int, help="Windows a case and epoch [4]."),
        click.option("--phantoms", type=int, help="Synthetic head-and-neck cases an epoch [0]."),
        click.option("--max-epochs", type=int, help="Epochs [500]."),
        click.option("--learning-rate", type=float, help="Peak learning rate [1e-4]."),
        click.option("--validate-every", type=int, help="Epochs between validations [10]."),
        click.option("--validation-cases", type=int, help="Cases of a validation, 0 for all [0]."),
        click.option("--amp", type=click.Choice(["auto", "none", "bf16", "fp16"]), help="Mixed precision [auto]."),
        click.option("--no-amp", is_flag=True, help="The same as --amp none."),
        click.option("--mirror", type=click.Choice(["sided", "plain"]), help="Mirroring of left and right [sided]."),
        click.option("--grad-checkpoint", is_flag=True, default=None, help="Recompute transformer activations."),
        click.option("--clip-weights", help="CLIP weights: a tag, a file, or 'random' [openai]."),
        click.option("--seed", type=int, help="Seed of weights, windows and routing [0]."),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N."),
        click.option("--resume", is_flag=True, help="Continue from the run folder's latest checkpoint."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@main.command()
@training_options
@click.option("--pretrained", type=ANY, help="Checkpoint to start from.")
@click.option("--tau", type=float, help="Temperature of the Gumbel-softmax [1.0].")
def pretrain(datalist: Path, run_dir: Path, pretrained: Path | None, device: str, resume: bool, **flags: Any) -> None:
    """Train the routed network on a datalist."""
    from gcis_train import stages
    from gcis_train.settings import check_run_folder, pick_device, resolve_options

    where = pick_device(device)
    options = resolve_options(flags, device=where)
    check_run_folder(run_dir, resume=resume)
    progress = _progress()
    material = stages.gather(datalist, options)
    outcome = stages.pretrain(
        material, options, run_dir, pretrained=pretrained, resume=resume, device=where, progress=progress
    )
    _finish(outcome, run_dir)


@main.command()
@training_options
def warmstart(datalist: Path, run_dir: Path, device: str, resume: bool, **flags: Any) -> None:
    """Train a static network for all prompts, then copy it into every pathway.

    Learns several times faster a step than the routed network. RUN_DIR/routed is then a routed checkpoint
    for `gcis-train pretrain --pretrained`.
    """
    from gcis_train import stages
    from gcis_train.settings import check_run_folder, pick_device, resolve_options

    where = pick_device(device)
    options = resolve_options(flags, device=where)
    check_run_folder(run_dir / "static", resume=resume)
    material = stages.gather(datalist, options)
    outcome = stages.warm_start(material, options, run_dir, resume=resume, device=where, progress=_progress())
    _finish(outcome, run_dir)


def _progress() -> Any:
    from gcis_train.progress import Progress

    return Progress(sys.stderr)


def _finish(outcome: Any, run_dir: Path) -> None:
    best = "" if outcome.best_dice is None else f", best validation Dice {outcome.best_dice:.3f}"
    if outcome.finished:
        click.echo(f"finished after epoch {outcome.epoch}{best}; checkpoints in {run_dir}")
        return
    click.echo(f"stopped in epoch {outcome.epoch + 1}{best}; run the same command with --resume to go on", err=True)
    raise SystemExit(130)
