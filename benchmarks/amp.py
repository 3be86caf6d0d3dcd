"""Whether mixed precision pays on this processor, and whether it is right: steps in float32 and in bf16."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from benchmarks.environment import environment
from gcis_runtime.errors import DataError
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet
from gcis_train.options.training import TrainOptions
from gcis_train.training.distributed import Processes
from gcis_train.training.loop.steps import Stepper
from gcis_train.training.losses import value
from gcis_train.training.objectives import Batch, RoutedObjective

PROMPTS = ("one",)


def measure(*, feature_size: int, roi: int, repeats: int) -> dict[str, Any]:
    """Time routed steps (one window, one prompt, six pathways) in turns, after one that warms up.

    Args:
        feature_size: Of the network.
        roi: Window side.
        repeats: Timed steps of each precision.
    """
    steppers = {amp: _stepper(feature_size, amp) for amp in ("none", "bf16")}
    seconds: dict[str, list[float]] = {amp: [] for amp in steppers}
    losses: dict[str, list[float | None]] = {amp: [] for amp in steppers}
    for number in range(repeats + 1):
        batch = _batch((roi, roi, roi), number)
        for amp, stepper in steppers.items():
            # Processor time, not the clock's: a machine that is shared would be measured otherwise.
            started = time.process_time()
            loss = _loss(stepper, batch, number)
            seconds[amp].append(time.process_time() - started)
            losses[amp].append(loss)
    repeated = {amp: _repeated(feature_size, amp) for amp in steppers}
    rows = [
        {
            "amp": amp,
            "same_step_twice": repeated[amp],
            "cpu_seconds": [round(s, 3) for s in seconds[amp][1:]],
            "median": round(statistics.median(seconds[amp][1:]), 3),
            "losses": losses[amp],
        }
        for amp in steppers
    ]
    ratios = [b / n for n, b in zip(seconds["none"][1:], seconds["bf16"][1:], strict=True)]
    return {
        "what": "amp",
        "environment": environment(),
        "setting": {"feature_size": feature_size, "roi": roi, "threads": torch.get_num_threads()},
        "rows": rows,
        "bf16_over_float32": {
            "median": round(statistics.median(ratios), 3),
            "each": [round(r, 3) for r in ratios],
        },
        "note": "processor seconds of steps of both precisions in turns, one after the other",
    }


def _loss(stepper: Stepper, batch: Batch, number: int) -> float | None:
    """Train a step; None where its gradient was not finite."""
    try:
        return stepper.step(batch, number)[0]
    except DataError:
        return None


def _repeated(feature_size: int, amp: str, *, windows: int = 12) -> dict[str, Any]:
    """Compute gradients of the same weights and windows twice: in one thread the same bits, if all is well.

    Small windows: their deepest maps are of one or two voxels.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    stepper = _stepper(feature_size, amp)
    net = stepper._objective.net
    differing: dict[str, int] = {}
    infinite: dict[str, int] = {}
    for number in range(windows):
        batch = _batch((64, 32, 32), number)
        pair = []
        for _ in range(2):
            net.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp == "bf16"):
                value(stepper._objective.loss(batch, done=0.0)).backward()  # type: ignore[no-untyped-call]
            pair.append({n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None})
        for name, one in pair[0].items():
            if not torch.equal(one, pair[1][name]):
                differing[name] = differing.get(name, 0) + 1
            if not (one.isfinite().all() and pair[1][name].isfinite().all()):
                infinite[name] = infinite.get(name, 0) + 1
    torch.set_num_threads(threads)
    return {"windows": windows, "gradients_that_differ": differing, "gradients_not_finite": infinite}


def _stepper(feature_size: int, amp: str) -> Stepper:
    torch.manual_seed(0)
    config = NetworkConfig(feature_size=feature_size, pathways=6, text_dim=32)
    net = GcisNet(config)
    embeddings = torch.randn(len(PROMPTS), 32, generator=torch.Generator().manual_seed(1))
    run = TrainOptions(network=config, amp="bf16" if amp == "bf16" else "none", schedule="constant")
    return Stepper(RoutedObjective(net, PROMPTS, embeddings, tau=1.0), run, Processes(), steps=100)


def _batch(roi: tuple[int, int, int], seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    masks = (torch.rand((len(PROMPTS), *roi), generator=generator) > 0.9).float()
    return Batch(
        names=("noise",),
        images=torch.rand((1, 1, *roi), generator=generator),
        masks=(masks,),
        prompts=(PROMPTS,),
        seeds=(seed,),
    )
