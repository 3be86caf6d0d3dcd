"""What keeps prompts apart in routed training, and what a static start saves: a tiny network on phantoms.

Feature size 12, windows of 64 x 32 x 32 voxels of 6 mm phantoms, seven prompts, six pathways, two prompts
a step. The embeddings share most of what they are (cosine about 0.9, as those of anatomical terms do),
so that routers start with similar answers. Losses are on windows that no step trains, along the pathways of
evaluation.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.environment import environment
from gcis_runtime.demo.phantom import STRUCTURES
from gcis_runtime.spec import PreprocessSpec
from gcis_train.data.sampling import cut_window, draw_window
from gcis_train.data.volumes import CaseVolume, load_phantom
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import spread
from gcis_train.options.training import TrainOptions
from gcis_train.routing.health import router_health
from gcis_train.training.distributed import Processes
from gcis_train.training.loop.steps import Stepper
from gcis_train.training.losses import prompt_loss
from gcis_train.training.objectives import Batch, JointObjective, RoutedObjective
from gcis_train.weights.upcycle import upcycle

ROI = (64, 32, 32)
SPEC = PreprocessSpec(orientation="RAS", spacing=(6.0, 6.0, 6.0))
PROMPTS = tuple(STRUCTURES.values())
BASE = TrainOptions(
    network=NetworkConfig(feature_size=12, pathways=6, text_dim=32),
    preprocess=SPEC,
    max_prompts=2,
    labelled_share=1.0,
    schedule="constant",
    warmup_epochs=0.0,
    learning_rate=1e-3,
    amp="none",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """Training volumes, fixed test windows, and embeddings (7, 32)."""

    volumes: tuple[CaseVolume, ...]
    test: Batch
    embeddings: Tensor


def measure(*, steps: int, seed: int = 0) -> dict[str, Any]:
    """Return the record.

    Args:
        steps: Routed steps of each variant; the static start gets twice as many.
        seed: Seed of networks and windows.
    """
    material = _material(seed)
    rows = [_scratch(material, name, changes, steps=steps, seed=seed) for name, changes in _VARIANTS]
    # The static start has trained for 2 * steps before: as many routed steps from random weights beside it.
    rows.append(_scratch(material, "published, three times the steps", {}, steps=3 * steps, seed=seed))
    rows += _upcycled(material, steps=steps, seed=seed)
    return {
        "what": "apart",
        "environment": environment(),
        "setting": {
            "feature_size": 12, "pathways": 6, "prompts": len(PROMPTS), "window": ROI, "steps": steps,
            "static_steps": 2 * steps, "rows_per_step": BASE.max_prompts, "seed": seed,
            "embedding_cosine": round(_cosine(material.embeddings), 3),
        },
        "rows": rows,
        "own_pathway": [
            {"margin": m, "per_position": round(_own(m), 5), "all_seven": round(_own(m) ** 7, 4)}
            for m in (4.0, 8.0, 9.0, 10.0)
        ],
    }  # fmt: skip


_VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("published: one rate, no balance, tau 1", {}),
    ("router learning rate x 30", {"router_learning_rate": 3e-2}),
    ("balance 0.1", {"balance": 0.1}),
    ("balance 0.1, router learning rate x 30", {"balance": 0.1, "router_learning_rate": 3e-2}),
    ("tau 1 to 0.1", {"tau_end": 0.1}),
)


def _scratch(
    material: Material, name: str, changes: dict[str, Any], *, steps: int, seed: int
) -> dict[str, Any]:
    """Train a routed network from random weights."""
    torch.manual_seed(seed)
    net = GcisNet(BASE.network)
    before = _health(net, material.embeddings)
    seconds = _train_routed(net, material, _options(changes), steps=steps, seed=seed)
    after = _health(net, material.embeddings)
    return {
        "variant": name,
        "start": "random",
        "test_loss": round(_test_loss(net, material), 4),
        "before": before,
        "after": after,
        "cpu_seconds_per_step": round(seconds / steps, 3),
    }


def _upcycled(material: Material, *, steps: int, seed: int) -> list[dict[str, Any]]:
    """Train a static network, copy it into every pathway with two router margins, train on."""
    torch.manual_seed(seed)
    static = StaticGcisNet(BASE.network, spread(len(PROMPTS), pathways=6))
    started = time.process_time()
    stepper = Stepper(
        JointObjective(static, PROMPTS, foreground_weight=15.0), BASE, Processes(), steps=2 * steps
    )
    everything = _options({"max_prompts": 0})
    for number in range(2 * steps):
        stepper.step(_batch(material.volumes, everything, np.random.default_rng([seed, 1, number])), number)
    seconds = time.process_time() - started
    rows = []
    for margin in (4.0, 9.0):
        net = upcycle(static, material.embeddings, router_gap=margin)
        start_loss, before = _test_loss(net, material), _health(net, material.embeddings)
        routed = _train_routed(net, material, BASE, steps=steps, seed=seed)
        rows.append(
            {
                "variant": f"static start, router margin {margin:g}",
                "start": "upcycled",
                "test_loss_at_start": round(start_loss, 4),
                "test_loss": round(_test_loss(net, material), 4),
                "before": before,
                "after": _health(net, material.embeddings),
                "static_cpu_seconds_per_step": round(seconds / (2 * steps), 3),
                "cpu_seconds_per_step": round(routed / steps, 3),
            }
        )
    return rows


def _train_routed(net: GcisNet, material: Material, run: TrainOptions, *, steps: int, seed: int) -> float:
    objective = RoutedObjective(
        net, PROMPTS, material.embeddings, tau=run.tau, tau_end=run.tau_end, balance=run.balance
    )
    started = time.process_time()
    one_epoch = _options({**_changes(run), "max_epochs": 1})
    stepper = Stepper(objective, one_epoch, Processes(), steps=steps)
    for number in range(steps):
        stepper.step(_batch(material.volumes, run, np.random.default_rng([seed, 2, number])), number)
    return time.process_time() - started


def _changes(run: TrainOptions) -> dict[str, Any]:
    return {f: getattr(run, f) for f in run.__struct_fields__}


def _options(changes: dict[str, Any]) -> TrainOptions:
    return TrainOptions(**{**_changes(BASE), **changes})


def _batch(volumes: Sequence[CaseVolume], run: TrainOptions, rng: np.random.Generator) -> Batch:
    volume = volumes[int(rng.integers(len(volumes)))]
    draw = draw_window(volume, run, prompts=PROMPTS, rng=rng)
    image, masks = cut_window(volume, dataclasses.replace(draw, turns=0), ROI)
    return Batch(
        names=(volume.name,),
        images=image[None],
        masks=(masks,),
        prompts=(tuple(name for _, name in draw.targets),),
        seeds=(int(rng.integers(2**62)),),
    )


def _material(seed: int) -> Material:
    everything = _options({"max_prompts": 0, "augment": type(BASE.augment)(flip=(0, 0, 0), rotate90=0)})
    held_out = [load_phantom(500 + i, SPEC) for i in range(2)]
    windows = [_batch(held_out, everything, np.random.default_rng([seed, 3, i])) for i in range(8)]
    common, own = (torch.randn(n, 32, generator=torch.Generator().manual_seed(9)) for n in (1, len(PROMPTS)))
    return Material(
        volumes=tuple(load_phantom(1_000_000 + i, SPEC) for i in range(4)),
        test=Batch(
            names=tuple(w.names[0] for w in windows),
            images=torch.cat([w.images for w in windows]),
            masks=tuple(w.masks[0] for w in windows),
            prompts=tuple(w.prompts[0] for w in windows),
            seeds=tuple(w.seeds[0] for w in windows),
        ),
        embeddings=common + 0.33 * own,
    )


def _test_loss(net: GcisNet, material: Material) -> float:
    """Return the mean loss over the test windows' (window, prompt) rows, along the resolved pathways."""
    table = dict(zip(PROMPTS, material.embeddings, strict=True))
    losses: list[Tensor] = []
    net.eval()
    with torch.no_grad():
        features = net.encoder(material.test.images)
        for index, (masks, prompts) in enumerate(
            zip(material.test.masks, material.test.prompts, strict=True)
        ):
            mine = tuple(f[index : index + 1] for f in features)
            for mask, prompt in zip(masks, prompts, strict=True):
                losses.append(prompt_loss(net.decoder(mine, net.resolve(table[prompt])), mask[None]))
    return float(torch.stack(losses).mean())


def _health(net: GcisNet, embeddings: Tensor) -> dict[str, Any]:
    with torch.no_grad():
        logits = net.route(embeddings)
    health = router_health(logits, PROMPTS)
    paths = {tuple(c) for c in logits.argmax(-1).tolist()}
    return {
        "distinct_pathways": len(paths),
        "collapsed": list(health.collapsed),
        "mean_agree": round(float(np.mean(health.agree)), 3),
        "mean_entropy": round(float(np.mean(health.entropy)), 3),
        "mean_undecided": round(float(np.mean(health.undecided)), 3),
    }


def _cosine(embeddings: Tensor) -> float:
    unit = torch.nn.functional.normalize(embeddings, dim=-1)
    pairs = unit @ unit.T
    return float((pairs.sum() - len(unit)) / (len(unit) * (len(unit) - 1)))


def _own(margin: float) -> float:
    """Return the probability that a prompt samples its own of six blocks."""
    return math.exp(margin) / (math.exp(margin) + 5)
