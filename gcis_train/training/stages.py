"""The two trainings: a static warm start with one softmax, and the routed network as published."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcis_runtime.errors import CheckpointError, DataError
from gcis_train.data.cache import VolumeCache, case_loader
from gcis_train.data.datalist import Case, group_cases, prompts_of, read_datalist
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway, spread
from gcis_train.options.training import TrainOptions
from gcis_train.routing.decisions import coincidences
from gcis_train.routing.health import RouterHealth, router_health
from gcis_train.text.prompts import PromptTable, embed_prompts, read_table, write_table
from gcis_train.training.allocator import keep_freed_memory
from gcis_train.training.distributed import current
from gcis_train.training.feed import CaseStore, Feed
from gcis_train.training.objectives import JointObjective, Objective, RoutedObjective
from gcis_train.training.progress import Progress
from gcis_train.training.run_folder import RunFolder
from gcis_train.training.trainer import Outcome, Trainer
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import CheckpointConfig
from gcis_train.weights.initialise import REPORT_FILE, initialise, read_source
from gcis_train.weights.upcycle import upcycle


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """What a run works on: cases, prompts and their embeddings."""

    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    prompts: tuple[str, ...]
    embeddings: Tensor
    text_weights: str


def gather(datalist: Path, options: TrainOptions, *, resumed: Path | None = None) -> Material:
    """Read the datalist and embed its prompts.

    Args:
        datalist: Its file.
        options: The run's options.
        resumed: Folder of the run that goes on: prompts that it embedded are not embedded again.

    Raises:
        DataError: A bad datalist, or nothing to train on.
        CheckpointError: Text weights that cannot be had.
        PromptError: A prompt that the text tower cannot read.
    """
    rows = read_datalist(datalist)
    training = group_cases(rows.training, folder=datalist.parent)
    if not training:
        raise DataError(f"{datalist} has no training rows", fix='Add rows under "training".')
    validation = group_cases(rows.validation, folder=datalist.parent)
    prompts = prompts_of(training + validation)
    table = embed_prompts(
        prompts,
        model=options.text_model,
        weights=options.text_weights,
        seed=options.text_seed,
        known=None if resumed is None else read_table(resumed),
    )
    embeddings = table.tensor()
    if embeddings.shape[1] != options.network.text_dim:
        raise CheckpointError(
            f"the text model {options.text_model} does not fit the network",
            received=f"embeddings of {embeddings.shape[1]} numbers",
            expected=str(options.network.text_dim),
            fix="Set network.text_dim in the configuration.",
        )
    return Material(
        training=training,
        validation=validation[: options.validation_cases or None],
        prompts=prompts,
        embeddings=embeddings,
        text_weights=table.text_weights,
    )


def keep_prompts(material: Material, options: TrainOptions, run_dir: Path) -> None:
    """Write the prompts' embeddings into a run's folder, so that it can go on without the text tower.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    if not current().first:
        return
    entries = checkpoint.prompt_table(material.prompts, material.embeddings)
    table = PromptTable(text_model=options.text_model, text_weights=material.text_weights, prompts=entries)
    write_table(run_dir, table)


def warm_start(
    material: Material,
    options: TrainOptions,
    run_dir: Path,
    *,
    pretrained: Path | None = None,
    resume: bool,
    device: torch.device,
    progress: Progress,
) -> Outcome:
    """Train a static network with one softmax over all prompts, then upcycle it.

    `pretrained` is what to start from (initialise.py), a warm start's `static/` among others.

    The run folder gets `static/` (its own run) and, when finished, `routed/`: a routed checkpoint that gives
    the best static checkpoint's answers, for `pretrain --pretrained`.
    """
    pathways = spread(len(material.prompts), pathways=options.network.pathways)
    torch.manual_seed(options.seed)
    net = StaticGcisNet(options.network, pathways, checkpoint=options.grad_checkpoint)
    if pretrained is not None and not (resume and RunFolder(run_dir / "static").begun):
        start_from(net, pretrained, material, options=options, run_dir=run_dir / "static", progress=progress)
    net = net.to(device)
    objective = JointObjective(net, material.prompts, foreground_weight=options.foreground_weight)
    describe = _describer(material, options, kind="static", pathways=pathways, stage="warm start")
    keep_prompts(material, options, run_dir)
    outcome = train(
        objective, material, options, run_dir / "static", describe, resume=resume, progress=progress
    )
    if outcome.finished and outcome.first:
        best = checkpoint.load(run_dir / "static")
        routed = upcycle(best.static(), material.embeddings, router_margin=options.router_margin)
        notes = {**best.config.provenance, "upcycled": True}
        config = _describer(material, options, kind="routed", pathways=(), stage="warm start")(notes)
        checkpoint.save(run_dir / "routed", config, routed.state_dict())
    return outcome


def pretrain(
    material: Material,
    options: TrainOptions,
    run_dir: Path,
    *,
    pretrained: Path | None,
    resume: bool,
    device: torch.device,
    progress: Progress,
) -> Outcome:
    """Train the routed network on every (window, prompt).

    Raises:
        CheckpointError: `pretrained` does not fit the network.
    """
    torch.manual_seed(options.seed)
    net = GcisNet(options.network, checkpoint=options.grad_checkpoint)
    if pretrained is not None and not (resume and RunFolder(run_dir).begun):
        start_from(net, pretrained, material, options=options, run_dir=run_dir, progress=progress)
    objective = RoutedObjective(
        net.to(device),
        material.prompts,
        material.embeddings,
        tau=options.tau,
        tau_end=options.tau_end,
        balance=options.balance,
    )
    describe = _describer(material, options, kind="routed", pathways=(), stage="pretraining")
    keep_prompts(material, options, run_dir)

    def health() -> RouterHealth:
        with torch.no_grad():
            return router_health(objective.router_logits(), material.prompts)

    outcome = train(
        objective, material, options, run_dir, describe, resume=resume, progress=progress, health=health
    )
    report_coincidences(objective.pathways(), progress)
    return outcome


def report_coincidences(pathways: dict[str, Pathway], progress: Progress) -> None:
    """Name the prompts whose seven choices coincide: their masks are the same."""
    for line in coincidences(pathways):
        progress.say(line)


def start_from(
    net: GcisNet | StaticGcisNet,
    pretrained: Path,
    material: Material,
    *,
    options: TrainOptions,
    run_dir: Path,
    progress: Progress,
) -> None:
    """Initialise a network from other weights; the run folder gets the report on every tensor.

    Raises:
        CheckpointError: They do not fit, or the folder cannot be written.
    """
    report = initialise(
        net,
        read_source(pretrained),
        prompts=material.prompts,
        embeddings=material.embeddings,
        router_margin=options.router_margin,
    )
    for line in report.lines():
        progress.say(line)
    if current().first:
        RunFolder(run_dir).write_json(REPORT_FILE, report.as_dict())


def _describer(
    material: Material, options: TrainOptions, *, kind: str, pathways: tuple[Pathway, ...], stage: str
) -> Callable[[dict[str, Any]], CheckpointConfig]:
    def describe(notes: dict[str, Any]) -> CheckpointConfig:
        return CheckpointConfig(
            kind="static" if kind == "static" else "routed",
            network=options.network,
            preprocess=options.preprocess,
            window=options.window,
            prompts=checkpoint.prompt_table(material.prompts, material.embeddings),
            path_selections=tuple(p.one_based for p in pathways),
            text_model=options.text_model,
            text_weights=material.text_weights,
            provenance={
                "stage": stage,
                "training_cases": len(material.training),
                "phantoms_per_epoch": options.phantoms,
                **notes,
            },
        )

    return describe


def train(
    objective: Objective,
    material: Material,
    options: TrainOptions,
    run_dir: Path,
    describe: Callable[[dict[str, Any]], CheckpointConfig],
    *,
    resume: bool,
    progress: Progress,
    health: Callable[[], RouterHealth] | None = None,
) -> Outcome:
    """Run an objective over a run's material, from the run folder's latest checkpoint if it is resumed."""
    keep_freed_memory()
    folder, processes = RunFolder(run_dir), current()
    resumed = resume and folder.begun
    if resumed and (changed := folder.changed_options(options)):
        progress.say(f"resumed with other options: {', '.join(changed)}")
    if processes.first:
        folder.write_options(options)
    cache = VolumeCache(Path(options.cache), notify=progress.say) if options.cache else None
    load = case_loader(options.preprocess, cache)
    validation = CaseStore(material.validation, load)
    trainer = Trainer(
        objective=objective,
        feed=Feed(material.training, material.prompts, options, processes, load=load),
        prompts=material.prompts,
        validation=lambda: validation,
        options=options,
        run_dir=run_dir,
        describe=describe,
        progress=progress,
        health=health,
    )
    if resumed:
        trainer.resume()
    outcome = trainer.run()
    if cache is not None:
        progress.say(cache.summary())
    return outcome
