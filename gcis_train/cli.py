"""`gcis-train`: parse, call, print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gcis_runtime.console import command_group
from gcis_train.datalist_cli import datalist as datalist_commands
from gcis_train.evaluation_cli import ceiling, curves, evaluate

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
ANY = click.Path(path_type=Path)


@command_group("gcis-train")
def main() -> None:
    """Train the routed CT segmentation network. Research software, not a medical device."""


for _command in (datalist_commands, evaluate, ceiling, curves):
    main.add_command(_command)


def training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every training shares; what is not given comes from --config or the recipe."""
    options = [
        click.option(
            "--datalist", type=FILE, required=True, help="Datalist JSON (training / validation rows)."
        ),
        click.option(
            "--run-dir", type=FOLDER, required=True, help="Folder of the run: checkpoints, logs, options."
        ),
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
        click.option(
            "--amp", type=click.Choice(["auto", "none", "bf16", "fp16"]), help="Mixed precision [auto]."
        ),
        click.option("--no-amp", is_flag=True, help="The same as --amp none."),
        click.option(
            "--mirror", type=click.Choice(["sided", "plain"]), help="Mirroring of left and right [sided]."
        ),
        click.option(
            "--grad-checkpoint", is_flag=True, default=None, help="Recompute transformer activations."
        ),
        click.option("--clip-weights", help="CLIP weights: a tag, a file, or 'random' [openai]."),
        click.option("--cache", help="Folder of pre-processed cases; runs may share it [none]."),
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
def pretrain(
    datalist: Path, run_dir: Path, pretrained: Path | None, device: str, resume: bool, **flags: Any
) -> None:
    """Train the routed network on a datalist."""
    from gcis_train import stages
    from gcis_train.settings import check_run_folder, pick_device, resolve_options

    where = pick_device(device)
    options = resolve_options(flags, device=where)
    check_run_folder(run_dir, resume=resume)
    progress = _progress()
    material = stages.gather(datalist, options, resumed=run_dir if resume else None)
    outcome = stages.pretrain(
        material, options, run_dir, pretrained=pretrained, resume=resume, device=where, progress=progress
    )
    _finish(outcome, run_dir)


@main.command()
@training_options
@click.option("--pretrained", type=ANY, help="Checkpoint to start from, such as another RUN/static.")
def warmstart(
    datalist: Path, run_dir: Path, pretrained: Path | None, device: str, resume: bool, **flags: Any
) -> None:
    """Train a static network for all prompts, then copy it into every pathway.

    Learns several times faster a step than the routed network. RUN_DIR/routed is then a routed checkpoint
    for `gcis-train pretrain --pretrained`.
    """
    from gcis_train import stages
    from gcis_train.settings import check_run_folder, pick_device, resolve_options

    where = pick_device(device)
    options = resolve_options(flags, device=where)
    check_run_folder(run_dir / "static", resume=resume)
    material = stages.gather(datalist, options, resumed=run_dir if resume else None)
    outcome = stages.warm_start(
        material,
        options,
        run_dir,
        pretrained=pretrained,
        resume=resume,
        device=where,
        progress=_progress(),
    )
    _finish(outcome, run_dir)


@main.command()
@click.option("--checkpoint", type=ANY, required=True, help="Routed checkpoint or run folder.")
@click.option("--prompt", "prompts", multiple=True, help="Prompt; repeat for more [all that it knows].")
@click.option("--clip-weights", help="CLIP weights for prompts that it does not know.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--png", type=FILE, help="Draw the table as a picture: prompts by positions.")
def paths(
    checkpoint: Path, prompts: tuple[str, ...], clip_weights: str | None, as_json: bool, png: Path | None
) -> None:
    """Print the pathway of each prompt at the seven positions, counted from 1, with router margins.

    A margin is by how much the router's logit of the chosen block leads the runner-up's.
    """
    import json

    from gcis_train import checkpoint as checkpoints
    from gcis_train.prompts import embeddings_of
    from gcis_train.routing import coincidences, route, routing_table
    from gcis_train.routing_picture import write_heatmap

    found = checkpoints.load(checkpoint)
    net = found.routed()
    vectors = embeddings_of(found, prompts or found.prompts, clip_weights=clip_weights)
    routings = [route(net, prompt, vector) for prompt, vector in vectors.items()]
    if png is not None:
        write_heatmap(png, routings, pathways=net.config.pathways)
    if as_json:
        click.echo(json.dumps([r.as_dict() for r in routings], indent=2))
    else:
        click.echo(routing_table(routings))
    for line in coincidences({r.prompt: r.pathway for r in routings}):
        click.echo(f"gcis-train: {line}", err=True)


@main.command("import")
@click.argument("file", type=FILE)
@click.option("-o", "--out", type=FOLDER, required=True, help="Checkpoint folder to write.")
@click.option("--prompt", help="What a single-task checkpoint segments.")
@click.option("--json", "as_json", is_flag=True, help="Print every tensor's fate as JSON.")
def import_(file: Path, out: Path, prompt: str | None, as_json: bool) -> None:
    """Read published gCIS weights or SwinUNETR weights into a checkpoint."""
    import json

    from gcis_train.foreign import import_file

    found = import_file(file, out, prompt=prompt)
    if as_json:
        report = {"kind": found.kind, "used": found.used, "unused": found.unused, "missing": found.missing}
        click.echo(json.dumps(report, indent=2))
        return
    network = found.config.network
    click.echo(f"{file.name}: {found.kind}, feature size {network.feature_size}, {network.pathways} pathways")
    click.echo(f"used {len(found.used)} tensors, unused {len(found.unused)}, missing {len(found.missing)}")
    for name, reason in found.unused.items():
        click.echo(f"  unused   {name} ({reason})")
    for name in found.missing:
        click.echo(f"  missing  {name} (starts at random in a training)")
    click.echo(f"written to {out}")


@main.command()
@click.option(
    "-o", "--out", type=FOLDER, required=True, help="Folder of the phantoms and their datalist.json."
)
@click.option("--count", type=click.IntRange(min=1), default=10, show_default=True, help="How many.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the first.")
@click.option(
    "--spacing", default="3", show_default=True, help="Voxel size in mm: one number or three with commas."
)
@click.option(
    "--training-share",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of cases to train on.",
)
def phantoms(out: Path, count: int, seed: int, spacing: str, training_share: float) -> None:
    """Write generated head-and-neck CTs with exact labels and a datalist."""
    from gcis_train.phantoms import write_phantoms
    from gcis_train.settings import three_numbers

    x, y, z = three_numbers(spacing, float, "--spacing")
    datalist = write_phantoms(out, count=count, seed=seed, spacing=(x, y, z), training_share=training_share)
    rows = len(datalist.training), len(datalist.validation)
    click.echo(f"{count} phantoms in {out}: {rows[0]} training rows, {rows[1]} validation rows")


def _progress() -> Any:
    from gcis_train.progress import Progress

    return Progress(sys.stderr)


def _finish(outcome: Any, run_dir: Path) -> None:
    best = "" if outcome.best_dice is None else f", best validation Dice {outcome.best_dice:.3f}"
    if outcome.finished:
        click.echo(f"finished after epoch {outcome.epoch}{best}; checkpoints in {run_dir}")
        return
    click.echo(
        f"stopped in epoch {outcome.epoch + 1}{best}; run the same command with --resume to go on", err=True
    )
    raise SystemExit(130)
