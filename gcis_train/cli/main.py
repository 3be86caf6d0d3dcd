"""Define the command group `gcis-train`, and implement the commands `paths`, `import` and `phantoms`."""

from __future__ import annotations

from pathlib import Path

import click

from gcis_runtime.choices import MERGINGS, Merging
from gcis_runtime.system.console import command_group, echo, json_option, out_option
from gcis_train.cli.datalist import datalist as datalist_commands
from gcis_train.cli.evaluation import ceiling, curves, evaluate
from gcis_train.cli.finetune import finetune
from gcis_train.cli.published import export_published
from gcis_train.cli.training import pretrain, warmstart
from gcis_train.cli.upcycle import upcycle

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
ANY = click.Path(path_type=Path)


@command_group("gcis-train", extras="train")
def main() -> None:
    """Train the routed CT segmentation network. Research software, not a medical device."""


for _command in (datalist_commands, pretrain, warmstart, upcycle, finetune, evaluate, ceiling, curves):
    main.add_command(_command)
main.add_command(export_published)


@main.command()
@click.option("--checkpoint", type=ANY, required=True, help="Routed checkpoint or run folder.")
@click.option(
    "--prompt", "prompts", multiple=True, help="Prompt; repeat for several [all prompts of the checkpoint]."
)
@click.option("--clip-weights", help="CLIP weights for prompts that the checkpoint does not have.")
@click.option(
    "--any-clip", is_flag=True, help="Accept CLIP weights other than those that the network was trained with."
)
@json_option(help="Print JSON.")
@click.option("--png", type=FILE, help="Also draw the table as an image, prompts by positions.")
def paths(
    checkpoint: Path,
    prompts: tuple[str, ...],
    clip_weights: str | None,
    any_clip: bool,
    as_json: bool,
    png: Path | None,
) -> None:
    """Print the pathway of each prompt, blocks counted from 1, with router gaps.

    A router gap is the router logit of the chosen block minus the second largest one.
    """
    from gcis_runtime.system.json_files import json_text
    from gcis_train.routing.decisions import coincidences, route, routing_table
    from gcis_train.routing.picture import write_heatmap
    from gcis_train.text.resolve import TextOptions, remarks, resolve_prompts
    from gcis_train.weights import checkpoint as checkpoints

    found = checkpoints.load(checkpoint)
    net = found.routed()
    text = TextOptions(clip_weights=clip_weights, any_clip=any_clip, untrained=True)
    resolved = resolve_prompts(found, prompts or found.prompts, text)
    routings = [route(net, entry.prompt, entry.embedding) for entry in resolved]
    if png is not None:
        write_heatmap(png, routings, pathways=net.config.pathways)
    if as_json:
        echo(json_text([r.as_dict() for r in routings]))
    else:
        echo(routing_table(routings))
    for line in remarks(resolved):
        echo(f"gcis-train: {line}", err=True)
    for line in coincidences({r.prompt: r.pathway for r in routings}):
        echo(f"gcis-train: {line}", err=True)


@main.command("import")
@click.argument("file", type=FILE)
@out_option(type=FOLDER, required=True, help="Checkpoint folder to write.")
@click.option("--prompt", help="Structure that a single-task checkpoint segments.")
@click.option(
    "--merging",
    type=click.Choice(MERGINGS),
    default="v0.9",
    show_default=True,
    help="Patch merging of the weights: v2 only for a SwinUNETR trained with MONAI 1.5 or later.",
)
@json_option(help="Print the used, unused and missing tensors as JSON.")
def import_(file: Path, out: Path, prompt: str | None, merging: Merging, as_json: bool) -> None:
    """Convert published gCIS weights or SwinUNETR weights to a checkpoint."""
    from gcis_runtime.system.json_files import json_text
    from gcis_train.weights.foreign import import_file

    found = import_file(file, out, prompt=prompt, merging=merging)
    if as_json:
        report = {"kind": found.kind, "used": found.used, "unused": found.unused, "missing": found.missing}
        echo(json_text(report))
        return
    network = found.config.network
    echo(
        f"{file.name}: {found.kind}, feature size {network.feature_size}, {network.pathways} pathways, "
        f"patch merging {network.merging}"
    )
    echo(f"used {len(found.used)} tensors, unused {len(found.unused)}, missing {len(found.missing)}")
    for name, reason in found.unused.items():
        echo(f"  unused   {name} ({reason})")
    for name in found.missing:
        echo(f"  missing  {name} (a training initialises it randomly)")
    echo(f"written to {out}")


@main.command()
@out_option(type=FOLDER, required=True, help="Folder for the phantoms and their datalist.json.")
@click.option(
    "--count", type=click.IntRange(min=1), default=10, show_default=True, help="Number of phantoms."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the first phantom; the others count up.",
)
@click.option(
    "--spacing",
    default="3",
    show_default=True,
    help="Voxel size in mm: one number or three, comma-separated.",
)
@click.option(
    "--training-share",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the cases in the training list; the others validate.",
)
def phantoms(out: Path, count: int, seed: int, spacing: str, training_share: float) -> None:
    """Generate head-and-neck CT phantoms with exact labels, and a datalist."""
    from gcis_train.data.phantoms import write_phantoms
    from gcis_train.options.flags import numbers

    x, y, z = numbers(spacing, float, "--spacing", count=3)
    datalist = write_phantoms(out, count=count, seed=seed, spacing=(x, y, z), training_share=training_share)
    rows = len(datalist.training), len(datalist.validation)
    echo(f"{count} phantoms in {out}: {rows[0]} training rows, {rows[1]} validation rows")
