"""Validation on the training grid: sliding windows, label map, Dice of every labelled structure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from gcis_train.data.volumes import CaseVolume
from gcis_train.metrics import dice
from gcis_train.nets.network import StaticGcisNet
from gcis_train.options.training import TrainOptions
from gcis_train.training.distributed import Processes


def validate(
    net: StaticGcisNet, prompts: Sequence[str], volumes: Iterable[CaseVolume], options: TrainOptions
) -> dict[str, list[float]]:
    """Return the Dice of every labelled structure, by prompt; a prompt without a case has no entry.

    Args:
        net: Gives the logits of `prompts`, in this order.
        prompts: Channels of the network.
        volumes: Pre-processed cases.
        options: Window and overlap.
    """
    device = next(net.parameters()).device
    scores: dict[str, list[float]] = {}
    for volume in volumes:
        image = torch.from_numpy(volume.image.astype(np.float32))[None, None].to(device)
        with torch.no_grad():
            logits = sliding_window_inference(
                image,
                roi_size=options.window.patch_size,
                sw_batch_size=1,
                predictor=net,
                overlap=options.validation_overlap,
                mode=options.window.blend,
                sigma_scale=options.window.sigma_scale,
                cval=options.window.padding_value,
            )
        best, channel = logits[0].max(0)
        labels = torch.where(best > 0, channel + 1, torch.zeros_like(channel)).cpu().numpy()
        for index, prompt in enumerate(volume.prompts):
            if prompt not in prompts:
                continue
            predicted = labels == prompts.index(prompt) + 1
            scores.setdefault(prompt, []).append(dice(predicted, volume.mask(index)))
    return scores


def validate_share(
    net: StaticGcisNet,
    prompts: Sequence[str],
    volumes: Sequence[CaseVolume],
    options: TrainOptions,
    *,
    processes: Processes,
    stopped: Callable[[], bool],
) -> dict[str, list[float]] | None:
    """Validate with every process taking its share of the cases; every one returns all scores.

    Args:
        net: Gives the logits of `prompts`, in this order.
        prompts: Channels of the network.
        volumes: Pre-processed cases; each process reads only its own.
        options: Window and overlap.
        processes: Who shares the cases.
        stopped: Asked between cases.

    Returns:
        Scores as `validate` gives them, or None if stopped before the end.
    """
    device = next(net.parameters()).device
    scores = torch.zeros((2, len(volumes), len(prompts)), dtype=torch.float64, device=device)
    for index in range(processes.rank, len(volumes), processes.world):
        if stopped():
            return None
        for prompt, found in validate(net, prompts, [volumes[index]], options).items():
            scores[0, index, prompts.index(prompt)] = found[0]
            scores[1, index, prompts.index(prompt)] = 1
    values, there = processes.add(scores).tolist()
    return {
        prompt: [v[p] for v, t in zip(values, there, strict=True) if t[p]]
        for p, prompt in enumerate(prompts)
        if any(t[p] for t in there)
    }
