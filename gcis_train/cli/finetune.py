"""Implement the command `gcis-train finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from gcis_train.cli.training import ANY, Arguments, finish, open_run, training_options


@click.command()
@training_options
@click.option(
    "--checkpoint", "start", type=ANY, required=True, help="Checkpoint or run folder to start from."
)
@click.option("--prompt", help="Single task: the structure; the routers choose its pathway.")
@click.option("--path-selection", help="Single task: its pathway, such as 2,1,3,5,3,6,6.")
@click.option(
    "--frozen",
    type=click.Choice(["swin", "encoder", "none"]),
    help="Single task: freeze the Swin transformer, as published, the whole encoder, or nothing [swin].",
)
@click.option(
    "--stage",
    type=click.Choice(["pathways", "shared", "both"]),
    help="All tasks of a routed checkpoint: train its routed blocks, the shared layers, or both in sequence.",
)
@click.option(
    "--any-clip", is_flag=True, help="Accept CLIP weights other than those that the network was trained with."
)
def finetune(
    arguments: Arguments,
    start: Path,
    prompt: str | None,
    path_selection: str | None,
    frozen: Literal["swin", "encoder", "none"] | None,
    stage: Literal["pathways", "shared", "both"] | None,
    any_clip: bool,
) -> None:
    """Fine-tune a checkpoint for a single task or for all tasks, as published.

    Single task (--prompt or --path-selection): trains the static network of one pathway on the rows of one
    prompt; --frozen selects the part of the encoder that stays unchanged. The result can be exported without
    CLIP.

    All tasks (--stage both): trains the routed blocks, each on the data of the prompts that are routed to it,
    and then all other layers on all data. Pathways do not change, and the results are routed checkpoints in
    RUN_DIR/pathways and RUN_DIR/shared.

    Network, preprocessing and window default to those of the checkpoint.
    """
    from gcis_train.training.finetune import Job, base_options, fine_tune
    from gcis_train.weights import checkpoint

    if (prompt is None and path_selection is None) == (stage is None):
        raise click.UsageError("Pass --prompt or --path-selection for one task, or --stage for all tasks.")
    if stage is not None and frozen is not None:
        raise click.UsageError("--frozen is for one task: --stage selects the trained parts. Omit it.")
    if stage is not None and arguments.flags.get("published"):
        raise click.UsageError("--published is a recipe of pretraining and of one task; omit it here.")
    found = checkpoint.load(start)
    with open_run(arguments, base=base_options(found)) as run:
        job = Job(
            source=found,
            datalist=arguments.datalist,
            run=run,
            clip_weights=arguments.flags.get("clip_weights"),
            any_clip=any_clip,
        )
        outcome = fine_tune(job, prompt=prompt, path_selection=path_selection, frozen=frozen, stage=stage)
    finish(outcome, arguments.run_dir)
