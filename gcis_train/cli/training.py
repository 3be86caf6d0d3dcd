"""Implement `gcis-train pretrain` and `warmstart`, and the options shared by all commands that train."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gcis_runtime.system.console import echo
from gcis_train.options.flags import FLAGS

if TYPE_CHECKING:
    from gcis_train.training.loop.trainer import Outcome
    from gcis_train.training.run import Run

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
ANY = click.Path(path_type=Path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Values of the options that all training commands share.

    Attributes:
        datalist: Datalist file.
        run_dir: Run folder.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        resume: Continue from the latest checkpoint in the run folder.
        flags: Values of FLAGS by parameter name, with `config`, `published` and `no_amp`.
    """

    datalist: Path
    run_dir: Path
    device: str
    resume: bool
    flags: Mapping[str, Any]


def training_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the shared options to a command, which receives them as `Arguments`."""
    names = {*(flag.parameter for flag in FLAGS), "config", "published", "no_amp"}

    @functools.wraps(function)
    def call(*, datalist: Path, run_dir: Path, device: str, resume: bool, **given: Any) -> None:
        flags = {name: value for name, value in given.items() if name in names}
        own = {name: value for name, value in given.items() if name not in names}
        shared = Arguments(datalist=datalist, run_dir=run_dir, device=device, resume=resume, flags=flags)
        function(shared, **own)

    options = [
        click.option("--datalist", type=FILE, required=True, help="Datalist JSON (training, validation)."),
        click.option(
            "--run-dir", type=FOLDER, required=True, help="Run folder for checkpoints, logs and options."
        ),
        click.option("--config", type=FILE, help="JSON or YAML file of options; flags override it."),
        click.option("--published", is_flag=True, default=None, help="Use exactly the published recipe."),
        *(flag.option() for flag in FLAGS),
        click.option("--no-amp", is_flag=True, help="Same as --amp none."),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:N."),
        click.option(
            "--resume", is_flag=True, help="Continue from the latest checkpoint in the run folder, if any."
        ),
    ]
    for option in reversed(options):
        call = option(call)
    return call


@click.command()
@training_options
@click.option(
    "--pretrained",
    type=ANY,
    help="Initial weights: a checkpoint, a run folder, or a SwinUNETR file.",
)
def pretrain(arguments: Arguments, pretrained: Path | None) -> None:
    """Train the routed network on a datalist."""
    from gcis_train.options.settings import check_run_folder
    from gcis_train.training.material import gather
    from gcis_train.training.pretrain import pretrain as train

    with open_run(arguments, pretrained=pretrained) as run:
        check_run_folder(run.run_dir, resume=run.resume)
        before = run.run_dir if run.resume else None
        material = gather(arguments.datalist, run.options, resumed=before, notify=run.progress.log)
        outcome = train(material, run)
    finish(outcome, arguments.run_dir)


@click.command()
@training_options
@click.option(
    "--pretrained",
    type=ANY,
    help="Initial weights, such as RUN/static of another warm start.",
)
def warmstart(arguments: Arguments, pretrained: Path | None) -> None:
    """Train a static network for all prompts, then copy it into every pathway.

    A step takes a fraction of the time of a routed one. RUN_DIR/routed is then a routed checkpoint for
    `gcis-train pretrain --pretrained`.
    """
    from gcis_train.options.settings import check_run_folder
    from gcis_train.training.material import gather
    from gcis_train.training.warmstart import STATIC_FOLDER, warm_start

    with open_run(arguments, pretrained=pretrained) as run:
        check_run_folder(run.run_dir / STATIC_FOLDER, resume=run.resume)
        before = run.run_dir if run.resume else None
        material = gather(arguments.datalist, run.options, resumed=before, notify=run.progress.log)
        outcome = warm_start(material, run)
    finish(outcome, arguments.run_dir)


@contextlib.contextmanager
def open_run(
    arguments: Arguments, *, pretrained: Path | None = None, base: dict[str, Any] | None = None
) -> Iterator[Run]:
    """Resolve device and options, and connect the processes that torchrun started.

    Args:
        arguments: Values of the shared options; with several processes, each uses its own GPU.
        pretrained: Initial weights.
        base: Options stored in the checkpoint that the training starts from.

    Yields:
        Settings of the run; only the first process displays progress.
    """
    from gcis_train.options.settings import pick_device, resolve_options, resumed_base
    from gcis_train.training.distributed import connected, local_device
    from gcis_train.training.progress import Progress
    from gcis_train.training.run import Run

    device = local_device(pick_device(arguments.device))
    if base is None and arguments.resume:
        base = resumed_base(arguments.run_dir)
    options = resolve_options(dict(arguments.flags), device=device, base=base)
    with connected(device, minutes=options.timeout_minutes) as processes:
        progress = Progress(sys.stderr, shown=processes.first)
        if device.type == "cpu" and options.amp == "bf16":
            progress.log("warning: gradients in bf16 on the CPU are not reproducible (docs/decisions/0012)")
        yield Run(
            options=options,
            run_dir=arguments.run_dir,
            device=device,
            progress=progress,
            resume=arguments.resume,
            pretrained=pretrained,
        )


def finish(outcome: Outcome, run_dir: Path) -> None:
    """Print the result of a run; exit with code 130 if it was interrupted."""
    best = "" if outcome.best_dice is None else f", best validation Dice {outcome.best_dice:.3f}"
    if outcome.finished:
        if outcome.first:
            echo(f"finished after epoch {outcome.epoch}{best}; checkpoints in {run_dir}")
        return
    if outcome.first:
        echo(
            f"stopped in epoch {outcome.epoch + 1}{best}; checkpoint saved in {run_dir}. "
            "Run the same command with --resume to continue.",
            err=True,
        )
    raise SystemExit(130)
