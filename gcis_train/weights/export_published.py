"""Write checkpoints as files that the published program loads: `model.pt` and `params.pth`.

A file holds `{"state_dict": {name: tensor}}` with the published names and nothing else. Tensors include the
integer buffer `relative_position_index` of the transformer, so that a strict `load_state_dict` succeeds.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gcis_runtime.choices import Merging
from gcis_runtime.errors import CheckpointError
from gcis_runtime.system.atomic_files import replacing
from gcis_train.nets.config import PUBLISHED_TEXT_WEIGHTS
from gcis_train.weights.checkpoint import Checkpoint
from gcis_train.weights.published import published_name

PUBLISHED_MERGING: Merging = "v0.9"
"""Patch merging of MONAI 0.9.1, which the published program requires."""


def export_published(found: Checkpoint, file: Path) -> tuple[str, ...]:
    """Write a routed checkpoint as `model.pt`, or one of a single task as `params.pth`.

    Args:
        found: Routed checkpoint, or static checkpoint with one pathway.
        file: File to write; replaced if it exists.

    Returns:
        Warnings about settings with which the published program gives other labels.

    Raises:
        CheckpointError: The published program has no network of this kind, or weights do not fit.
        OutputError: The file cannot be written.
    """
    state = published_state(found)
    with replacing(file) as temporary:
        torch.save({"state_dict": state}, temporary)
    return _warnings(found)


def published_state(found: Checkpoint) -> dict[str, Tensor]:
    """Return the weights of a checkpoint by published name.

    Raises:
        CheckpointError: See `export_published`.
    """
    config = found.config
    single = config.kind == "static"
    pathways = len(set(config.path_selections))
    if config.kind == "encoder" or (single and pathways != 1):
        raise CheckpointError(
            f"the published program has no network like {found.folder}",
            received=f"static, {pathways} pathways" if single else config.kind,
            expected="a routed network, or a static one with one pathway",
            fix="Choose a checkpoint of gcis-train pretrain, or of finetune --prompt.",
        )
    net = found.static() if single else found.routed()
    return {published_name(name, single=single): tensor.clone() for name, tensor in net.state_dict().items()}


def _warnings(found: Checkpoint) -> tuple[str, ...]:
    config = found.config
    lines = []
    if (merging := config.network.merging) != PUBLISHED_MERGING:
        lines.append(
            f"the network was trained with patch merging {merging}; with MONAI 0.9.1, which the published "
            "program requires, a fifth to a quarter of the labels may differ: run it with MONAI 1.5 or later"
        )
    if config.kind == "routed" and found.text_weights != PUBLISHED_TEXT_WEIGHTS:
        lines.append(
            f"the routers were trained with the text weights {found.text_weights!r}; the published program "
            f"uses {PUBLISHED_TEXT_WEIGHTS!r} and may select other pathways (gcis-train paths prints them)"
        )
    axes = None if config.preprocess is None else config.preprocess.orientation
    if axes is not None:
        lines.append(
            f"the network was trained on images in {axes} orientation; the published program does not "
            "re-orient images"
        )
    return tuple(lines)
