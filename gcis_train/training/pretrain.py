"""Train the routed network on all prompts, as published."""

from __future__ import annotations

from functools import partial

import torch

from gcis_train.nets.network import GcisNet
from gcis_train.routing.health import RouterHealth, router_health
from gcis_train.training.loop.trainer import Outcome
from gcis_train.training.material import Material, checkpoint_config, store_embeddings
from gcis_train.training.objectives import RoutedObjective
from gcis_train.training.run import Run, initialise_network, log_coincidences, train


def pretrain(material: Material, run: Run) -> Outcome:
    """Train the routed network on every (window, prompt) pair.

    Args:
        material: Cases, prompts and text embeddings.
        run: Settings of the run.

    Raises:
        CheckpointError: `run.pretrained` does not fit the network, or a checkpoint cannot be read or written.
        DataError, ProcessError: See `Trainer.run`.
    """
    options = run.options
    torch.manual_seed(options.seed)
    net = GcisNet(options.network, checkpoint=options.grad_checkpoint)
    initialise_network(net, material, run)
    objective = RoutedObjective(
        net.to(run.device),
        material.cases.prompts,
        material.embeddings,
        tau=options.tau,
        tau_end=options.tau_end,
        balance=options.balance,
    )

    def health() -> RouterHealth:
        with torch.no_grad():
            return router_health(objective.router_logits(), material.cases.prompts)

    config = checkpoint_config(material, options, kind="routed", stage="pretraining")
    record = partial(store_embeddings, material, options, run.run_dir)
    outcome = train(objective, material.cases, run, config, health=health, record=record)
    log_coincidences(objective.pathways(), run.progress)
    return outcome
