"""Train a static network for all prompts, then copy it into every pathway of a routed one (warm start)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import msgspec
import torch

from gcis_runtime.errors import CheckpointError, PromptError
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Spread
from gcis_train.nets.pathway import spread as spread_last
from gcis_train.text.prompts import embeddings_of
from gcis_train.text.resolve import unambiguous_name
from gcis_train.training.loop.trainer import Outcome
from gcis_train.training.material import Material, checkpoint_config, store_embeddings
from gcis_train.training.objectives import JointObjective
from gcis_train.training.run import Run, initialise_network, train
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import Checkpoint, CheckpointConfig, prompt_table
from gcis_train.weights.upcycle import ROUTER_GAP, upcycle

STATIC_FOLDER, ROUTED_FOLDER = "static", "routed"
"""Folders in the run folder: the run of the static network, and the routed checkpoint."""


def warm_start(material: Material, run: Run) -> Outcome:
    """Train a static network with one softmax over all prompts, then upcycle it.

    The run folder receives `static/`, the run of the static network, and at the end `routed/`: a routed
    checkpoint with the same output as the best static one, for `pretrain --pretrained`.

    Args:
        material: Cases, prompts and text embeddings.
        run: Settings of the run; `pretrained` may be `static/` of another warm start.

    Raises:
        CheckpointError: `run.pretrained` does not fit the network, or a checkpoint cannot be read or written.
        DataError, ProcessError: See `Trainer.run`.
    """
    options, prompts = run.options, material.cases.prompts
    static_run = dataclasses.replace(run, run_dir=run.run_dir / STATIC_FOLDER)
    pathways = spread_last(len(prompts), pathways=options.network.pathways)
    torch.manual_seed(options.seed)
    net = StaticGcisNet(options.network, pathways, checkpoint=options.grad_checkpoint)
    initialise_network(net, material, static_run)
    objective = JointObjective(net.to(run.device), prompts, foreground_weight=options.foreground_weight)
    stage = "warm start"
    config = checkpoint_config(material, options, kind="static", pathways=pathways, stage=stage)
    record = partial(store_embeddings, material, options, run.run_dir)
    outcome = train(objective, material.cases, static_run, config, record=record)
    if outcome.finished and outcome.first:
        best = checkpoint.load(static_run.run_dir)
        routed = upcycle(best.static(), material.embeddings, router_gap=options.router_gap)
        config = checkpoint_config(material, options, kind="routed", stage=stage)
        notes = {**config.provenance, **best.config.provenance, "upcycled": True}
        config = msgspec.structs.replace(config, provenance=notes)
        checkpoint.save(run.run_dir / ROUTED_FOLDER, config, routed.state_dict())
    return outcome


def upcycled(
    found: Checkpoint,
    *,
    prompts: Sequence[str] = (),
    clip_weights: str | None = None,
    router_gap: float = ROUTER_GAP,
    spread: Spread = "last",
) -> tuple[CheckpointConfig, GcisNet]:
    """Return a static checkpoint as a routed one: its configuration and network.

    Args:
        found: Static checkpoint with a prompt table.
        prompts: Further prompts, which have no training yet.
        clip_weights: Text weights for the further prompts.
        router_gap: See `upcycle`.
        spread: See `upcycle`.

    Raises:
        CheckpointError: The checkpoint is not static, or the text weights differ from those of its training.
        PromptError: A prompt has no embedding, or see `upcycle`.
    """
    net = found.static()
    if not found.prompts:
        raise CheckpointError(
            f"{found.folder} has no prompts",
            expected="a static checkpoint of gcis-train warmstart",
            fix="Copy the weights with gcis-train pretrain --pretrained instead.",
        )
    for prompt in prompts:
        name = unambiguous_name(prompt, found.prompts)
        if name not in (None, prompt):
            raise PromptError(
                "this is another name of a prompt of the checkpoint",
                received=repr(prompt),
                expected="a structure that the checkpoint does not have",
                fix=f"Omit it, and use {name!r}.",
            )
    names = tuple(dict.fromkeys((*found.prompts, *prompts)))
    embeddings = torch.stack(list(embeddings_of(found, names, clip_weights=clip_weights).values()))
    routed = upcycle(net, embeddings, router_gap=router_gap, spread=spread)
    provenance = {**found.config.provenance, "upcycled": True, "upcycled_from_sha256": found.sha256}
    if new := names[len(found.prompts) :]:
        provenance["untrained_prompts"] = list(new)
    config = msgspec.structs.replace(
        found.config,
        kind="routed",
        prompts=prompt_table(names, embeddings),
        path_selections=(),
        provenance=provenance,
    )
    return config, routed
