"""Fine-tune as published: one task with a frozen transformer, or a routed network in two stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch

from gcis_runtime.errors import CheckpointError, DataError
from gcis_train.data.datalist import prompts_of
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.options.settings import check_run_folder
from gcis_train.training.finetune_task import choose_pathway, extended_table, only_prompt, routing_embeddings
from gcis_train.training.freezing import (
    FROZEN_PARTS,
    FrozenPart,
    is_block,
    is_frozen,
    is_router,
    on_pathways,
    train_only,
)
from gcis_train.training.loop.trainer import Outcome
from gcis_train.training.material import Cases, read_cases
from gcis_train.training.objectives import FixedObjective
from gcis_train.training.run import Run, log_coincidences, train
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import Checkpoint, CheckpointConfig

Stage = Literal["pathways", "shared"]
STAGES: tuple[Stage, Stage] = ("pathways", "shared")
"""Folders of the two stages in the run folder, in order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Inputs of a fine-tuning.

    Attributes:
        source: Checkpoint to start from.
        datalist: Datalist with the training and validation rows.
        run: Settings of the run; its network is that of the checkpoint.
        clip_weights: Text weights for prompts that the checkpoint does not have.
        any_clip: Accept a text tower other than that of the checkpoint.

    Raises:
        CheckpointError: The network in the options differs from that of the checkpoint.
    """

    source: Checkpoint
    datalist: Path
    run: Run
    clip_weights: str | None = None
    any_clip: bool = False

    def __post_init__(self) -> None:
        network = self.source.config.network
        if self.run.options.network != network:
            raise CheckpointError(
                "fine-tuning keeps the network of its checkpoint",
                received=str(self.run.options.network),
                expected=str(network),
                fix="Omit --feature-size, --pathways and network.* options.",
            )

    def in_folder(self, run_dir: Path) -> Job:
        """Return the same job with another run folder."""
        return dataclasses.replace(self, run=dataclasses.replace(self.run, run_dir=run_dir))


def base_options(found: Checkpoint) -> dict[str, Any]:
    """Return the options that a fine-tuning takes from its checkpoint, by name."""
    config = found.config
    base = {"network": config.network, "preprocess": config.preprocess, "window": config.window}
    given = {name: msgspec.to_builtins(value) for name, value in base.items() if value is not None}
    return {**given, "text_model": config.text_model, "text_weights": found.text_weights}


def fine_tune(
    job: Job,
    *,
    prompt: str | None = None,
    path_selection: str | None = None,
    frozen: FrozenPart | None = None,
    stage: Stage | Literal["both"] | None = None,
) -> Outcome:
    """Run the fine-tuning that the arguments select: a single task, one stage, or both stages.

    Args:
        job: Inputs.
        prompt: See `single_task`.
        path_selection: See `single_task`.
        frozen: See `single_task`.
        stage: Stage of a routed network to train; None trains a single task.

    Raises:
        CheckpointError: The run folder contains a run and `job.run.resume` is false.
        PromptError, DataError: See `single_task` and `routed_stage`.
    """
    run = job.run
    for folder in [run.run_dir / name for name in STAGES] if stage == "both" else [run.run_dir]:
        check_run_folder(folder, resume=run.resume)
    for note in job.source.notes:
        run.progress.log(note)
    if stage == "both":
        return two_stages(job)
    if stage is not None:
        return routed_stage(job, stage)
    return single_task(job, prompt=prompt, path_selection=path_selection, frozen=frozen)


def single_task(
    job: Job, *, prompt: str | None, path_selection: str | None, frozen: FrozenPart | None = None
) -> Outcome:
    """Train the static network of one pathway; a part of its encoder is frozen.

    The frozen part, including its normalisation layers, runs in evaluation mode and without autograd, so that
    it stores no activations for the backward pass. The checkpoints of the run are static and can be exported
    without CLIP.

    Args:
        job: Inputs.
        prompt: The structure; None selects the only one in the datalist. Without `path_selection`, the
            routers of the checkpoint choose its pathway.
        path_selection: Pathway counted from 1, such as `2,1,3,5,3,6,6`; `prompt` is then only the name of the
            structure.
        frozen: Part of the encoder to freeze; None selects that of a resumed run, and `"swin"` for a new one.

    Raises:
        PromptError: The prompt cannot be routed, or the path selection cannot be read.
        DataError: The datalist has no training row of the prompt, or several prompts and `prompt` is None.
        CheckpointError: The checkpoint has no decoder, or the run was started with other inputs.
    """
    part = frozen or _frozen_before(job.run) or "swin"
    name = prompt if prompt is not None else only_prompt(job.datalist)
    pathway, entry, notes = choose_pathway(
        job.source,
        name,
        path_selection=path_selection,
        clip_weights=job.clip_weights,
        any_clip=job.any_clip,
    )
    for note in notes:
        job.run.progress.log(note)
    cases = read_cases(job.datalist, job.run.options, prompts=(name,), notify=job.run.progress.log)
    whole = job.source.static() if job.source.config.kind == "static" else job.source.routed()
    net = StaticGcisNet.resolved(whole, [pathway]).to(job.run.device)
    if job.run.options.grad_checkpoint and part == "none":
        weights = net.state_dict()
        net = StaticGcisNet(net.config, [pathway], checkpoint=True).to(job.run.device)
        net.load_state_dict(weights)
    trained = train_only(net, lambda name: not is_frozen(name, part))
    job.run.progress.log(f"{name!r} on pathway {pathway}: {_share(trained, net)} trained, {_FROZEN[part]}")
    config = _checkpoint_config(job, cases, stage="one task")
    config = msgspec.structs.replace(
        config,
        kind="static",
        provenance={**config.provenance, "frozen": part},
        prompts=(entry,),
        path_selections=(pathway.one_based,),
    )
    return _train(job, FixedObjective(net, {name: pathway}, frozen=part), cases, config)


def routed_stage(job: Job, stage: Stage) -> Outcome:
    """Train a part of a routed network with the pathway of every prompt fixed to the choice of the routers.

    Args:
        job: Inputs.
        stage: `"pathways"` trains only the routed blocks, each on the data of the prompts that are routed to
            it; `"shared"` trains only the layers that all pathways share (encoder and up-sampling), on all
            data. Routers never change.

    Raises:
        PromptError: A prompt of the datalist cannot be routed.
        DataError: The datalist has no training rows, or `unused_blocks` is not `"freeze"` in the stage
            `"pathways"`.
        CheckpointError: The checkpoint is not routed, or the run was started with other inputs.
    """
    source, options = job.source, job.run.options
    frozen = stage == "pathways"
    if frozen and options.unused_blocks != "freeze":
        raise DataError(
            "the stage 'pathways' changes each block only with the data of its own prompts",
            received=f"unused_blocks {options.unused_blocks}",
            expected="freeze",
            fix="Omit --unused-blocks.",
        )
    net = source.routed()
    if options.grad_checkpoint and not frozen:
        net = GcisNet(source.config.network, checkpoint=True)
        source.load_into(net)
    cases = read_cases(job.datalist, options, notify=job.run.progress.log)
    embeddings, notes = routing_embeddings(
        source, cases.prompts, clip_weights=job.clip_weights, any_clip=job.any_clip
    )
    for note in notes:
        job.run.progress.log(note)
    pathways = {prompt: net.resolve(embedding) for prompt, embedding in embeddings.items()}
    if frozen:
        used = {pathways[p] for p in prompts_of(cases.training)}
        trained = train_only(net, lambda name: on_pathways(name, used))
    else:
        trained = train_only(net, lambda name: not is_block(name) and not is_router(name))
    job.run.progress.log(f"stage {stage!r}: {_share(trained, net)} trained")
    config = msgspec.structs.replace(
        _checkpoint_config(job, cases, stage=stage), prompts=extended_table(source, embeddings)
    )
    part: FrozenPart = "encoder" if frozen else "none"
    objective = FixedObjective(net.to(job.run.device), pathways, frozen=part)
    outcome = _train(job, objective, cases, config)
    log_coincidences(pathways, job.run.progress)
    return outcome


def two_stages(job: Job) -> Outcome:
    """Run both stages, in `pathways/` and `shared/` of the run folder.

    The second stage starts from the best checkpoint of the first. A resumed run continues with the unfinished
    stage.
    """
    first, second = (job.run.run_dir / stage for stage in STAGES)
    outcome = routed_stage(job.in_folder(first), "pathways")
    if not outcome.finished:
        return outcome
    after = dataclasses.replace(job, source=checkpoint.load(first))
    return routed_stage(after.in_folder(second), "shared")


_FROZEN: dict[FrozenPart, str] = {
    "swin": "Swin transformer frozen",
    "encoder": "encoder frozen",
    "none": "nothing frozen",
}


def _frozen_before(run: Run) -> FrozenPart | None:
    """Return the frozen part of a run that is resumed; early runs do not record it and froze the encoder."""
    if not run.resumed:
        return None
    stored = checkpoint.load(run.run_dir, prefer="latest").config.provenance.get("frozen", "encoder")
    return next((part for part in FROZEN_PARTS if part == stored), None)


def _share(trained: Sequence[str], net: torch.nn.Module) -> str:
    return f"{len(trained)} of {len(list(net.parameters()))} tensors"


def _checkpoint_config(job: Job, cases: Cases, *, stage: str) -> CheckpointConfig:
    """Return the configuration of the checkpoints, with the prompt table of the source."""
    options = job.run.options
    trained = prompts_of(cases.training)
    untrained = [prompt for prompt in job.source.untrained_prompts if prompt not in trained]
    return msgspec.structs.replace(
        job.source.config,
        kind="routed",
        preprocess=options.preprocess,
        window=options.window,
        path_selections=(),
        text_weights=job.source.text_weights,
        provenance={
            "stage": f"fine-tuning, {stage}",
            "source_sha256": job.source.sha256,
            "training_cases": len(set(cases.training)),
            "phantoms_per_epoch": options.phantoms,
            **({"untrained_prompts": untrained} if untrained else {}),
        },
    )


def _train(job: Job, objective: FixedObjective, cases: Cases, config: CheckpointConfig) -> Outcome:
    if job.run.resumed:
        _check_same(job.run.run_dir, config)
    return train(objective, cases, job.run, config)


def _check_same(run_dir: Path, now: CheckpointConfig) -> None:
    """Raise an error if a resumed run was started from another checkpoint, task or stage."""
    before = checkpoint.load(run_dir, prefer="latest").config
    for what, old, new in (
        ("checkpoint", before.provenance.get("source_sha256"), now.provenance["source_sha256"]),
        ("frozen part", before.provenance.get("frozen", "encoder"), now.provenance.get("frozen", "encoder")),
        ("stage", before.provenance.get("stage"), now.provenance["stage"]),
        ("pathway", before.path_selections, now.path_selections),
        ("prompt table", [e.prompt for e in before.prompts], [e.prompt for e in now.prompts]),
    ):
        if old != new:
            raise CheckpointError(
                f"the run in {run_dir} was started with another {what}",
                received=str(new),
                expected=str(old),
                fix="Resume with the original arguments, or choose another --run-dir.",
            )
