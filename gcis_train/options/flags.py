"""The command-line flags of a training: one table, which says where each one's value goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import click
from msgspec import UNSET

from gcis_runtime.errors import DataError


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: As typed, such as `--feature-size`.
        place: The option that it sets, such as `network.feature_size`.
        kind: `int`, `float`, `str`, `bool`, or the choices of a word.
        help: One line, with the default in brackets.
        count: Numbers with commas that it takes: 1, 2, or 3 (then one number stands for all three).
    """

    name: str
    place: str
    kind: type | tuple[str, ...]
    help: str
    count: int = 1

    @property
    def parameter(self) -> str:
        """Name of the function parameter that click passes the value as."""
        return self.name.removeprefix("--").replace("-", "_")

    def option(self) -> Callable[..., Any]:
        """Return click's decorator."""
        if self.kind is bool:
            return click.option(self.name, is_flag=True, default=None, help=self.help)
        if isinstance(self.kind, tuple):
            return click.option(self.name, type=click.Choice(self.kind), help=self.help)
        return click.option(self.name, type=self.kind if self.count == 1 else str, help=self.help)

    def read(self, value: Any) -> Any:
        """Return the option's value from the flag's; UNSET takes it out.

        Raises:
            DataError: Not the numbers that it takes.
        """
        if self.place == "preprocess.orientation":
            return None if value == "file" else value.upper()
        if self.place == "preprocess.foreground":
            return UNSET if value == "off" else {"margin": numbers(value, int, self.name, count=1)[0]}
        if self.count == 1 or isinstance(self.kind, tuple):
            return value
        return numbers(value, self.kind, self.name, count=self.count)


def numbers(text: str, kind: type, option: str, *, count: int) -> list[Any]:
    """Read `count` numbers with commas; where three are wanted, one stands for all of them.

    Raises:
        DataError: Neither.
    """
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    if count == 3 and len(values) == 1:
        return values * 3
    if len(values) != count:
        wanted = "one number, or three with commas" if count == 3 else f"{count} numbers with commas"
        raise DataError(f"{option} cannot be read", received=repr(text), expected=wanted)
    return values


FLAGS = (
    Flag("--feature-size", "network.feature_size", int, "Channels of the first stage, 12 times n [48]."),
    Flag("--pathways", "network.pathways", int, "Residual blocks at each decoder position [6]."),
    Flag("--roi", "window.roi", int, "Window in voxels: one number or three with commas [128].", 3),
    Flag("--overlap", "window.overlap", float, "Window overlap when the checkpoint is used [0.5]."),
    Flag("--spacing", "preprocess.spacing", float, "Voxel size in mm: one number or three [1].", 3),
    Flag(
        "--orientation",
        "preprocess.orientation",
        str,
        "Axis codes (RAS), or 'file' to keep them [file].",
    ),
    Flag("--intensity-window", "preprocess.intensity_window", float, "HU mapped to 0 and 1 [-175,250].", 2),
    Flag(
        "--crop-foreground",
        "preprocess.foreground",
        str,
        "Crop images to what is above the lowest mapped HU and so many voxels around it, or 'off' [off].",
    ),
    Flag("--batch-size", "batch_size", int, "Windows (or cases, --batch-of) a step and process [1]."),
    Flag("--batch-of", "batch_of", ("windows", "cases"), "What --batch-size counts [windows]."),
    Flag("--windows-per-case", "windows_per_case", int, "Windows a case and epoch [4]."),
    Flag("--rows", "rows", ("together", "apart"), "An image's structures: one case, or one each [together]."),
    Flag(
        "--crop",
        "crop",
        ("centred", "inside"),
        "Windows reach over the border, or not [centred].",
    ),
    Flag("--labelled-share", "labelled_share", float, "Share of windows centred on a structure [0.5]."),
    Flag("--max-prompts", "max_prompts", int, "Structures of a window trained in one step, 0 for all [0]."),
    Flag("--phantoms", "phantoms", int, "Synthetic head-and-neck cases an epoch [0]."),
    Flag("--max-epochs", "max_epochs", int, "Epochs [500]."),
    Flag("--learning-rate", "learning_rate", float, "Peak learning rate [1e-4]."),
    Flag("--weight-decay", "weight_decay", float, "AdamW's weight decay [1e-5]."),
    Flag("--schedule", "schedule", ("cosine", "epoch_cosine", "constant"), "Rate after warm-up [cosine]."),
    Flag("--warmup-epochs", "warmup_epochs", float, "Epochs of linear warm-up [5]."),
    Flag("--clip-gradient", "clip_gradient", float, "Largest gradient norm, 0 for none [0]."),
    Flag("--foreground-weight", "foreground_weight", float, "Structures' weight in a warm start's loss [1]."),
    Flag("--tau", "tau", float, "Temperature of the Gumbel-softmax [1]."),
    Flag("--tau-end", "tau_end", float, "Temperature at the end, reached geometrically [tau]."),
    Flag("--router-learning-rate", "router_learning_rate", float, "Routers' peak rate [learning rate]."),
    Flag("--balance", "balance", float, "Weight of the term that keeps prompts apart, 0 for none [0]."),
    Flag(
        "--router-margin",
        "router_margin",
        float,
        "Lead of a prompt's block after upcycling [9].",
    ),
    Flag(
        "--unsampled",
        "unsampled",
        ("rest", "drift"),
        "Blocks that no prompt of a step uses: left alone, or moved by AdamW's momentum and decay [rest].",
    ),
    Flag("--amp", "amp", ("auto", "none", "bf16", "fp16"), "Mixed precision [auto]."),
    Flag(
        "--grad-checkpoint",
        "grad_checkpoint",
        bool,
        "Recompute transformer activations.",
    ),
    Flag("--validate-every", "validate_every", int, "Epochs between validations [10]."),
    Flag("--validation-cases", "validation_cases", int, "Cases of a validation, 0 for all [0]."),
    Flag("--validation-overlap", "validation_overlap", float, "Window overlap of a validation [0.5]."),
    Flag("--save-every", "save_every", int, "Keep a checkpoint every N epochs for good, 0 for none [0]."),
    Flag("--save-minutes", "save_minutes", float, "Minutes between checkpoints within an epoch [5]."),
    Flag("--timeout-minutes", "timeout_minutes", float, "Minutes that processes wait for each other [30]."),
    Flag("--mirror", "augment.mirror", ("sided", "plain"), "Mirroring of left and right [sided]."),
    Flag("--flip", "augment.flip", float, "Probability of mirroring along each axis [0.2].", 3),
    Flag("--rotate90", "augment.rotate90", float, "Probability of quarter turns [0.2]."),
    Flag("--intensity-scale", "augment.intensity_scale", float, "Probability of scaling intensities [0.1]."),
    Flag("--intensity-shift", "augment.intensity_shift", float, "Probability of shifting intensities [0.1]."),
    Flag("--intensity-size", "augment.intensity_size", float, "Size of both [0.1]."),
    Flag("--affine", "augment.affine", float, "Probability of a small rotation and zoom [0]."),
    Flag("--text-model", "text_model", str, "open_clip model of the text tower [ViT-B-32-quickgelu]."),
    Flag("--clip-weights", "text_weights", str, "CLIP weights: a tag, a file, or 'random' [openai]."),
    Flag("--cache", "cache", str, "Folder of pre-processed cases; runs may share it [none]."),
    Flag("--seed", "seed", int, "Seed of weights, windows and routing [0]."),
)
