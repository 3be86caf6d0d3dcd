"""Fine-tuning, both published ways: one task behind a frozen encoder, or a routed network in two stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from gcis_runtime.errors import CheckpointError, DataError, PromptError
from gcis_train.data.datalist import Row, group_cases, prompts_of, read_datalist
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.options.training import TrainOptions
from gcis_train.text.prompts import embeddings_of
from gcis_train.training import stages
from gcis_train.training.freezing import is_block, is_encoder, is_router, on_pathways, train_only
from gcis_train.training.objectives import FixedObjective
from gcis_train.training.progress import Progress
from gcis_train.training.stages import Material
from gcis_train.training.trainer import Outcome
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import Checkpoint, CheckpointConfig, PromptEntry, unknown_prompt

Stage = Literal["pathways", "shared"]
STAGES: tuple[Stage, Stage] = ("pathways", "shared")
"""Folders of the two stages in the run's folder, in order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What every fine-tuning is told.

    Attributes:
        source: The checkpoint to start from.
        datalist: Rows to train and validate on.
        options: The run's options; their network is the checkpoint's.
        run_dir: Folder of the run.
        clip_weights: Text weights for prompts that the checkpoint does not know.
        resume: Continue the run in that folder.
        device: Where to train.
        progress: Where to show it.
    """

    source: Checkpoint
    datalist: Path
    options: TrainOptions
    run_dir: Path
    clip_weights: str | None = None
    resume: bool = False
    device: torch.device
    progress: Progress

    def __post_init__(self) -> None:
        network = self.source.config.network
        if self.options.network != network:
            raise CheckpointError(
                "a fine-tuning keeps the network of its checkpoint",
                received=str(self.options.network),
                expected=str(network),
                fix="Leave --feature-size, --pathways and network.* out.",
            )


def base_options(found: Checkpoint) -> dict[str, Any]:
    """Return what a fine-tuning takes over from its checkpoint, as options by name."""
    config = found.config
    base = {"network": config.network, "preprocess": config.preprocess, "window": config.window}
    given = {name: msgspec.to_builtins(value) for name, value in base.items() if value is not None}
    return {**given, "text_model": config.text_model, "text_weights": config.text_weights}


def single_task(job: Job, *, prompt: str | None, path_selection: str | None) -> Outcome:
    """Train the static network of one pathway; the encoder stays as it is.

    The encoder runs in evaluation mode and without autograd, its norms included, so nothing of it is
    kept for a backward pass. The run's checkpoints are static: they export without CLIP.

    Args:
        job: What to train on what.
        prompt: The structure; None for the datalist's only one. Without `path_selection` the checkpoint's
            router chooses its pathway.
        path_selection: The pathway, counted from 1, such as `2,1,3,5,3,6,6`; `prompt` then only names the
            structure.

    Raises:
        PromptError: A prompt that cannot be routed, or an unreadable path selection.
        DataError: The datalist has no row of the prompt to train on, or several prompts and none is named.
        CheckpointError: A checkpoint without a decoder, or a run that was begun otherwise.
    """
    name = prompt if prompt is not None else _only_prompt(job.datalist)
    pathway, entry = choose_pathway(
        job.source, name, path_selection=path_selection, clip_weights=job.clip_weights
    )
    material = _material(job, prompts=(name,))
    whole = job.source.static() if job.source.config.kind == "static" else job.source.routed()
    net = StaticGcisNet.resolved(whole, [pathway]).to(job.device)
    trained = train_only(net, lambda name: not is_encoder(name))
    job.progress.say(f"{name!r} on pathway {pathway}: {_share(trained, net)} trained, encoder frozen")
    objective = FixedObjective(net, {name: pathway}, frozen_encoder=True)
    describe = _describer(job, material, kind="static", table=(entry,), pathways=(pathway,), stage="one task")
    return _train(job, objective, material, job.run_dir, describe)


def routed_stage(job: Job, stage: Stage) -> Outcome:
    """Train a part of a routed network with every prompt's pathway fixed to what the router says.

    Args:
        job: What to train on what.
        stage: `"pathways"`: only the routed blocks, each on the data of the prompts that are routed to it
            (a step changes the blocks on the pathways of its rows and nothing else). `"shared"`: only what
            all pathways share, encoder and up-sampling, on all data. Routers never change.

    Raises:
        PromptError: A prompt of the datalist that cannot be routed.
        DataError: Nothing to train on.
        CheckpointError: The checkpoint is not routed, or a run that was begun otherwise.
    """
    source, options = job.source, job.options
    frozen = stage == "pathways"
    if frozen and options.unsampled != "rest":
        raise DataError(
            "in the stage 'pathways' a block changes on its own prompts' data only",
            received=f"unsampled {options.unsampled}",
            expected="rest",
            fix="Leave --unsampled out.",
        )
    net = source.routed()
    if options.grad_checkpoint and not frozen:
        net = GcisNet(source.config.network, checkpoint=True)
        source.load_into(net)
    material = _material(job)
    embeddings = embeddings_of(source, material.prompts, clip_weights=job.clip_weights)
    pathways = {prompt: net.resolve(embedding) for prompt, embedding in embeddings.items()}
    if frozen:
        used = {pathways[p] for p in prompts_of(material.training)}
        trained = train_only(net, lambda name: on_pathways(name, used))
    else:
        trained = train_only(net, lambda name: not is_block(name) and not is_router(name))
    job.progress.say(f"stage {stage!r}: {_share(trained, net)} trained")
    objective = FixedObjective(net.to(job.device), pathways, frozen_encoder=frozen)
    describe = _describer(job, material, kind="routed", table=_table(source, embeddings), stage=stage)
    outcome = _train(job, objective, material, job.run_dir, describe)
    stages.report_coincidences(pathways, job.progress)
    return outcome


def two_stages(job: Job) -> Outcome:
    """Run both stages, in `pathways/` and `shared/` of the run's folder.

    The second starts from the first's best checkpoint. Resumed, the stage that was not finished goes on.
    """
    first, second = (job.run_dir / stage for stage in STAGES)
    outcome = routed_stage(dataclasses.replace(job, run_dir=first), "pathways")
    if not outcome.finished:
        return outcome
    after = dataclasses.replace(job, source=checkpoint.load(first), run_dir=second)
    return routed_stage(after, "shared")


def choose_pathway(
    found: Checkpoint, prompt: str, *, path_selection: str | None, clip_weights: str | None
) -> tuple[Pathway, PromptEntry]:
    """Return the pathway that a single task trains, and the task's entry in the prompt table.

    A static network of one pathway may be trained for any prompt; of several, for the prompts that it knows.

    Raises:
        PromptError: The prompt is empty or cannot be routed, or the path selection cannot be used.
    """
    if not prompt.strip():
        raise PromptError("the prompt is empty", fix="Name the structure in words.")
    stored = {entry.prompt: entry for entry in found.config.prompts}
    entry = stored.get(prompt, PromptEntry(prompt=prompt))
    if found.config.kind == "static":
        if path_selection is not None:
            raise PromptError(
                f"{found.folder.name} is a static checkpoint: its pathways are fixed",
                fix="Leave --path-selection out.",
            )
        fixed = [Pathway(tuple(n - 1 for n in one_based)) for one_based in found.config.path_selections]
        if len(fixed) > 1 and prompt not in found.prompts:
            raise unknown_prompt(prompt, found.prompts)
        return fixed[found.prompts.index(prompt) if len(fixed) > 1 else 0], entry
    if path_selection is not None:
        return Pathway.parse(path_selection, pathways=found.config.network.pathways), entry
    embedding = embeddings_of(found, [prompt], clip_weights=clip_weights)[prompt]
    (entry,) = checkpoint.prompt_table([prompt], embedding[None])
    return found.routed().resolve(embedding), entry


def _only_prompt(datalist: Path) -> str:
    prompts = list(dict.fromkeys(row.prompt for row in read_datalist(datalist).training))
    if len(prompts) != 1:
        raise DataError(
            f"{datalist} trains several structures",
            received=", ".join(repr(p) for p in prompts),
            expected="one",
            fix="Say which with --prompt.",
        )
    return prompts[0]


def _material(job: Job, *, prompts: Sequence[str] = ()) -> Material:
    """Read the datalist's cases, with the rows of some prompts only."""
    rows = read_datalist(job.datalist)

    def cases(some: tuple[Row, ...]) -> tuple[Any, ...]:
        return group_cases(
            tuple(row for row in some if not prompts or row.prompt in prompts), folder=job.datalist.parent
        )

    training, validation = cases(rows.training), cases(rows.validation)
    if not training:
        raise DataError(
            f"{job.datalist} has no training rows of {' or '.join(repr(p) for p in prompts) or 'any prompt'}",
            expected=f"one of {', '.join(repr(p) for p in dict.fromkeys(r.prompt for r in rows.training))}",
            fix="Name a structure of the datalist, or add its rows.",
        )
    return Material(
        training=training,
        validation=validation[: job.options.validation_cases or None],
        prompts=tuple(prompts) or prompts_of(training + validation),
        embeddings=torch.empty(0),
        text_weights=job.source.config.text_weights,
    )


def _table(found: Checkpoint, embeddings: dict[str, Tensor]) -> tuple[PromptEntry, ...]:
    """Return the source's prompt table with the new prompts behind it."""
    known = {entry.prompt for entry in found.config.prompts if entry.embedding}
    new = [prompt for prompt in embeddings if prompt not in known]
    kept = tuple(entry for entry in found.config.prompts if entry.prompt not in new)
    return kept + (checkpoint.prompt_table(new, torch.stack([embeddings[p] for p in new])) if new else ())


def _share(trained: Sequence[str], net: torch.nn.Module) -> str:
    return f"{len(trained)} of {len(list(net.parameters()))} tensors"


def _describer(
    job: Job,
    material: Material,
    *,
    kind: Literal["routed", "static"],
    table: tuple[PromptEntry, ...],
    pathways: Sequence[Pathway] = (),
    stage: str,
) -> Callable[[dict[str, Any]], CheckpointConfig]:
    source = job.source.config

    def describe(notes: dict[str, Any]) -> CheckpointConfig:
        return CheckpointConfig(
            kind=kind,
            network=source.network,
            preprocess=job.options.preprocess,
            window=job.options.window,
            prompts=table,
            path_selections=tuple(pathway.one_based for pathway in pathways),
            text_model=source.text_model,
            text_weights=source.text_weights,
            provenance={
                "stage": f"fine-tuning, {stage}",
                "source_sha256": job.source.sha256,
                "training_cases": len(material.training),
                "phantoms_per_epoch": job.options.phantoms,
                **notes,
            },
        )

    return describe


def _train(
    job: Job,
    objective: FixedObjective,
    material: Material,
    run_dir: Path,
    describe: Callable[[dict[str, Any]], CheckpointConfig],
) -> Outcome:
    if job.resume:
        _check_same(run_dir, describe({}))
    return stages.train(
        objective, material, job.options, run_dir, describe, resume=job.resume, progress=job.progress
    )


def _check_same(run_dir: Path, now: CheckpointConfig) -> None:
    """Refuse to resume a run that was begun from another checkpoint, for another task or in another stage."""
    if not (run_dir / checkpoint.POINTER_FILE).exists():
        return
    before = checkpoint.load(run_dir, prefer="latest").config
    for what, old, new in (
        ("checkpoint", before.provenance.get("source_sha256"), now.provenance["source_sha256"]),
        ("stage", before.provenance.get("stage"), now.provenance["stage"]),
        ("pathway", before.path_selections, now.path_selections),
        ("prompt table", [e.prompt for e in before.prompts], [e.prompt for e in now.prompts]),
    ):
        if old != new:
            raise CheckpointError(
                f"the run in {run_dir} was begun with another {what}",
                received=str(new),
                expected=str(old),
                fix="Resume it with the arguments that it was begun with, or choose another --run-dir.",
            )
