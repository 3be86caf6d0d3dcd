"""Whether mixed precision pays on this processor: training steps in float32 and under bf16 autocast."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from benchmarks.environment import environment
from gcis_train.allocator import keep_freed_memory
from gcis_train.distributed import Processes
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet
from gcis_train.objectives import Batch, RoutedObjective
from gcis_train.options import TrainOptions
from gcis_train.steps import Stepper

PROMPTS = ("one", "two")


def measure(*, feature_size: int, roi: int, repeats: int) -> dict[str, Any]:
    """Time routed steps (one window, two prompts, six pathways) in turns, after one that warms up.

    Args:
        feature_size: Of the network.
        roi: Window side.
        repeats: Timed steps of each precision.
    """
    keep_freed_memory()
    steppers = {amp: _stepper(feature_size, amp) for amp in ("none", "bf16")}
    seconds: dict[str, list[float]] = {amp: [] for amp in steppers}
    losses: dict[str, list[float | None]] = {amp: [] for amp in steppers}
    for number in range(repeats + 1):
        batch = _batch(roi, number)
        for amp, stepper in steppers.items():
            # Processor time, not the clock's: a machine that is shared would be measured otherwise.
            started = time.process_time()
            loss, _ = stepper.step(batch, number)
            seconds[amp].append(time.process_time() - started)
            losses[amp].append(loss)
    rows = [
        {
            "amp": amp,
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


def _stepper(feature_size: int, amp: str) -> Stepper:
    torch.manual_seed(0)
    config = NetworkConfig(feature_size=feature_size, pathways=6, text_dim=32)
    net = GcisNet(config)
    embeddings = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    run = TrainOptions(network=config, amp="bf16" if amp == "bf16" else "none", schedule="constant")
    return Stepper(RoutedObjective(net, PROMPTS, embeddings, tau=1.0), run, Processes(), steps=100)


def _batch(roi: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    masks = (torch.rand((2, roi, roi, roi), generator=generator) > 0.9).float()
    return Batch(
        names=("noise",),
        images=torch.rand((1, 1, roi, roi, roi), generator=generator),
        masks=(masks,),
        prompts=(PROMPTS,),
        seeds=(seed,),
    )
