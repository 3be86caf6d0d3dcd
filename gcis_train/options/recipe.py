"""Define the published recipe as options, and the options that `--published` fixes."""

from __future__ import annotations

from typing import Any

import msgspec

from gcis_runtime.errors import DataError
from gcis_train.options.training import TrainOptions

PUBLISHED: dict[str, Any] = {
    "network": {"feature_size": 48, "pathways": 6, "merging": "v0.9"},
    "preprocess": {"orientation": None, "spacing": [1.0, 1.0, 1.0], "intensity_window": [-175.0, 250.0]},
    "window": {"roi": [128, 128, 128], "overlap": 0.5},
    "augment": {
        "mirror": "plain",
        "flip": [0.2, 0.2, 0.2],
        "rotate90": 0.2,
        "intensity_scale": 0.1,
        "intensity_shift": 0.1,
        "intensity_size": 0.1,
        "intensity_clip": False,
        "affine": 0.0,
    },
    "batch_size": 1,
    "batch_of": "cases",
    "structures_per_case": "one",
    "crop": "inside",
    "windows_per_case": 4,
    "labelled_share": 0.5,
    "max_prompts": 0,
    "phantoms": 0,
    "max_epochs": 5000,
    "max_minutes": 0.0,
    "learning_rate": 1e-4,
    "weight_decay": 1e-5,
    "schedule": "epoch_cosine",
    "warmup_epochs": 50.0,
    "clip_gradient": 0.0,
    "tau": 1.0,
    "tau_end": None,
    "router_learning_rate": None,
    "balance": 0.0,
    "unused_blocks": "decay",
    "validate_every": 500,
    "validation_overlap": 0.5,
    "text_model": "ViT-B-32-quickgelu",
    "text_weights": "laion400m_e32",
}
"""Ouyang et al., Communications Engineering 2024: the published program's defaults and fixed values."""

FIXED = (
    "preprocess.orientation",
    "preprocess.foreground",
    "augment.mirror",
    "augment.intensity_size",
    "augment.intensity_clip",
    "augment.affine",
    "batch_of",
    "structures_per_case",
    "crop",
    "labelled_share",
    "max_prompts",
    "phantoms",
    "max_minutes",
    "schedule",
    "clip_gradient",
    "tau_end",
    "router_learning_rate",
    "balance",
    "unused_blocks",
)
"""Options that the published program does not have; other values change the recipe."""


def published_tree() -> dict[str, Any]:
    """Return a copy of the published options that may be changed."""
    return {k: dict(v) if isinstance(v, dict) else v for k, v in PUBLISHED.items()}


def check_published(tree: dict[str, Any], *, inherited: dict[str, Any] | None = None) -> None:
    """Raise an error if an option that the published recipe fixes has another value.

    Args:
        tree: Resolved options, nested.
        inherited: Options of the checkpoint that the training starts from, which it may keep.

    Raises:
        DataError: An option differs; the message gives its value and the published one.
    """
    for place in FIXED:
        given, expected = _at(tree, place), _at(PUBLISHED, place)
        if given not in (expected, _at(inherited or {}, place)):
            raise DataError(
                f"{place} differs from the published recipe",
                received=repr(given),
                expected=repr(expected),
                fix="Omit the option, or train without --published.",
            )
    if tree.get("amp") == "bf16":
        raise DataError(
            "amp differs from the published recipe",
            received="'bf16'",
            expected="'fp16' or 'none'",
            fix="Omit the option, or train without --published.",
        )


def is_published(options: TrainOptions) -> bool:
    """Return whether options have the published value wherever the published recipe fixes one."""
    tree = msgspec.to_builtins(options)
    return all(_at(tree, place) == _at(PUBLISHED, place) for place in FIXED)


def _at(tree: dict[str, Any], place: str) -> Any:
    value: Any = tree
    for part in place.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
