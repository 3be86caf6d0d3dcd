"""The commands that train: parse, call, print."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from gcis_train.options.flags import FLAGS

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
ANY = click.Path(path_type=Path)


def training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every training shares; what is not given comes from --config or the recipe."""
    options = [
        click.option("--datalist", type=FILE, required=True, help="Datalist JSON (training, validation)."),
        click.option(
            "--run-dir", type=FOLDER, required=True, help="Folder of the run: checkpoints, logs, options."
        ),
        click.option("--config", type=FILE, help="JSON or YAML file of options; flags override it."),
        click.option("--published", is_flag=True, default=None, help="The published recipe exactly."),
        *(flag.option() for flag in FLAGS),
        click.option("--no-amp", is_flag=True, help="The same as --amp none."),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N."),
        click.option(
            "--resume", is_flag=True, help="Continue from the run folder's latest checkpoint, if any."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@training_options
@click.option("--pretrained", type=ANY, help="Weights to start from: a checkpoint, a run, SwinUNETR's files.")
def pretrain(
    datalist: Path, run_dir: Path, pretrained: Path | None, device: str, resume: bool, **flags: Any
) -> None:
    """Train the routed network on a datalist."""
    from gcis_train.options.settings import check_run_folder
    from gcis_train.training import stages

    with session(device, flags) as (where, options, progress):
        check_run_folder(run_dir, resume=resume)
        material = stages.gather(datalist, options, resumed=run_dir if resume else None)
        outcome = stages.pretrain(
            material, options, run_dir, pretrained=pretrained, resume=resume, device=where, progress=progress
        )
    finish(outcome, run_dir)


@click.command()
@training_options
@click.option("--pretrained", type=ANY, help="Weights to start from, such as another RUN/static.")
def warmstart(
    datalist: Path, run_dir: Path, pretrained: Path | None, device: str, resume: bool, **flags: Any
) -> None:
    """Train a static network for all prompts, then copy it into every pathway.

    Learns several times faster a step than the routed network. RUN_DIR/routed is then a routed checkpoint
    for `gcis-train pretrain --pretrained`.
    """
    from gcis_train.options.settings import check_run_folder
    from gcis_train.training import stages

    with session(device, flags) as (where, options, progress):
        check_run_folder(run_dir / "static", resume=resume)
        material = stages.gather(datalist, options, resumed=run_dir if resume else None)
        outcome = stages.warm_start(
            material, options, run_dir, pretrained=pretrained, resume=resume, device=where, progress=progress
        )
    finish(outcome, run_dir)


@contextlib.contextmanager
def session(
    device: str, flags: dict[str, Any], *, base: dict[str, Any] | None = None
) -> Iterator[tuple[Any, Any, Any]]:
    """Resolve device and options, and join the processes that torchrun started.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`; of several processes each takes its own GPU.
        flags: Command-line values (flags.py), with `config`, `published` and `no_amp`.
        base: Options that a checkpoint brings with it.

    Yields:
        The torch device, the `TrainOptions`, and the `Progress`, which only the first process shows.
    """
    from gcis_train.options.settings import pick_device, resolve_options
    from gcis_train.training.distributed import connected, local_device
    from gcis_train.training.progress import Progress

    where = local_device(pick_device(device))
    options = resolve_options(flags, device=where, base=base)
    with connected(where, minutes=options.timeout_minutes) as processes:
        progress = Progress(sys.stderr, shown=processes.first)
        if where.type == "cpu" and options.amp == "bf16":
            progress.say("warning: gradients in bf16 on the CPU are not reproducible (docs/decisions/0012)")
        yield where, options, progress


def finish(outcome: Any, run_dir: Path) -> None:
    """Say how a run ended; exit code 130 for one that was interrupted."""
    best = "" if outcome.best_dice is None else f", best validation Dice {outcome.best_dice:.3f}"
    if outcome.finished:
        if outcome.first:
            click.echo(f"finished after epoch {outcome.epoch}{best}; checkpoints in {run_dir}")
        return
    if outcome.first:
        click.echo(
            f"stopped in epoch {outcome.epoch + 1}{best}, all saved in {run_dir}; "
            "run the same command with --resume to go on",
            err=True,
        )
    raise SystemExit(130)
