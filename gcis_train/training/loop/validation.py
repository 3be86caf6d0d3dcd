"""Validate on the preprocessed grid: sliding windows, label map, Dice of every labelled structure."""

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
    """Return the Dice coefficients of every labelled structure, by prompt.

    Args:
        net: Network that computes the logits of `prompts`.
        prompts: Prompts in channel order.
        volumes: Preprocessed cases.
        options: Training options, with window and validation overlap.

    Returns:
        One coefficient per case in which the prompt is labelled; a prompt without such a case has no entry.
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
    """Validate the cases distributed over all processes; each process returns the scores of all cases.

    Args:
        net: Network that computes the logits of `prompts`.
        prompts: Prompts in channel order.
        volumes: Preprocessed cases; each process loads only its own.
        options: Training options, with window and validation overlap.
        processes: Processes that share the cases.
        stopped: Called between cases; returns whether to stop.

    Returns:
        Scores as returned by `validate`, or None if stopped before the end.
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
