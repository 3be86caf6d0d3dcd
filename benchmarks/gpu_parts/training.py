"""Time training steps with one pathway under autograd and with the published sum (section `training`)."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu_parts.context import Context, text
from benchmarks.gpu_parts.networks import routed
from benchmarks.gpu_parts.state import Result, Row
from benchmarks.published import published_loss
from gcis_runtime.spec import Shape3
from gcis_train.training.losses import value
from gcis_train.training.objectives import Batch, RoutedObjective

_PROMPT = "prompt"


def rows(context: Context) -> Iterator[Row]:
    """Return the rows of the section."""
    for roi in context.sizes.training:
        for way in ("ours", "published"):
            yield Row(
                name=f"training/window {text(roi)}/{way}",
                measure=functools.partial(_steps, context, roi, way),
                worth=1 if roi == context.sizes.training[0] else 3,
            )


def _steps(context: Context, roi: Shape3, way: str) -> Result:
    """Time steps of forward, backward and optimiser, with bf16 autocast on a GPU and float32 on a CPU."""
    rig, sizes = context.rig, context.sizes
    rig.clear()
    net, embedding = routed(sizes.feature_size, pathways=sizes.pathways)
    net.train().to(rig.device)
    table = {_PROMPT: embedding.to(rig.device)}
    objective = RoutedObjective(net, (_PROMPT,), embedding[None], tau=1.0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=1e-5)
    images = rig.inputs((1, 1, *roi))
    mask = (torch.rand((1, *roi), generator=torch.Generator().manual_seed(1)) > 0.9).float().to(rig.device)
    precision = "bf16" if rig.cuda else "fp32"

    def step(number: int) -> None:
        batch = Batch(
            names=("window",),
            images=images[number % len(images)],
            masks=(mask,),
            prompts=((_PROMPT,),),
            seeds=(number,),
        )
        with rig.computing(precision):
            loss = loss_of(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))

    def loss_of(batch: Batch) -> Tensor:
        if way == "published":
            return published_loss(net, batch, table)
        return value(objective.loss(batch, done=0.0))

    losses: list[float] = []
    found = rig.time(step)
    return found | {
        "precision": precision,
        "steps_per_second": round(1e3 / found["median_ms"], 3),
        "first_loss": losses[0],
    }
