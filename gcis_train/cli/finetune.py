"""`gcis-train finetune`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from gcis_train.cli.training import ANY, finish, session, training_options


@click.command()
@training_options
@click.option(
    "--checkpoint", "start", type=ANY, required=True, help="Checkpoint or run folder to start from."
)
@click.option("--prompt", help="One task: the structure; the router picks its pathway.")
@click.option("--path-selection", help="One task: its pathway, such as 2,1,3,5,3,6,6.")
@click.option(
    "--stage",
    type=click.Choice(["pathways", "shared", "both"]),
    help="All tasks of a routed checkpoint: its routed blocks, what they share, or one after the other.",
)
def finetune(
    datalist: Path,
    run_dir: Path,
    start: Path,
    prompt: str | None,
    path_selection: str | None,
    stage: Literal["pathways", "shared", "both"] | None,
    device: str,
    resume: bool,
    **flags: Any,
) -> None:
    """Train a checkpoint further, in either published way.

    One task (--prompt or --path-selection): the encoder is frozen, the static network of that pathway is
    trained on the rows of that prompt, and the result exports without CLIP.

    All tasks (--stage both): first the routed blocks, each on the data of the prompts that are routed to it;
    then everything but the routed blocks, on all data. Pathways stay what they are, and the result is routed:
    RUN_DIR/pathways, then RUN_DIR/shared.

    Network, pre-processing and window are the checkpoint's unless an option says otherwise.
    """
    from gcis_train.options.settings import check_run_folder
    from gcis_train.training import finetune
    from gcis_train.weights import checkpoint

    if (prompt is None and path_selection is None) == (stage is None):
        raise click.UsageError("Give --prompt or --path-selection for one task, or --stage for all.")
    if flags.get("published"):
        raise click.UsageError("--published is the recipe of pretraining.")
    found = checkpoint.load(start)
    with session(device, flags, base=finetune.base_options(found)) as (where, options, progress):
        for folder in [run_dir / name for name in finetune.STAGES] if stage == "both" else [run_dir]:
            check_run_folder(folder, resume=resume)
        job = finetune.Job(
            source=found,
            datalist=datalist,
            options=options,
            run_dir=run_dir,
            clip_weights=flags.get("clip_weights"),
            resume=resume,
            device=where,
            progress=progress,
        )
        if stage == "both":
            outcome = finetune.two_stages(job)
        elif stage is not None:
            outcome = finetune.routed_stage(job, stage)
        else:
            outcome = finetune.single_task(job, prompt=prompt, path_selection=path_selection)
    finish(outcome, run_dir)
