"""Define the command-line flags of a training, each with the option that it sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import click
from msgspec import UNSET

from gcis_runtime.choices import MERGINGS
from gcis_runtime.errors import DataError
from gcis_train.options.stored import STORED_VALUES


class _FlagOption(click.Option):
    """A click option whose help omits the earlier spellings of its name."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        spellings = self.opts
        self.opts = spellings[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = spellings


def _word_type(words: tuple[str, ...], former: Mapping[str, str]) -> Callable[[str], str]:
    """Return a click type that accepts some words, and replaces earlier spellings by the current ones."""
    choice = click.Choice(words)

    def word(value: str) -> str:
        return str(choice.convert(former.get(value, value), None, None))

    return word


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: Spelling on the command line, such as `--feature-size`.
        place: Dotted name of the option that it sets, such as `network.feature_size`.
        kind: `int`, `float`, `str`, `bool`, or the allowed words.
        help: One line, with the default in brackets.
        count: Number of comma-separated numbers that it takes: 1, 2, or 3 (one number then sets all three).
        former: Earlier spelling, accepted and not shown in the help.
    """

    name: str
    place: str
    kind: type | tuple[str, ...]
    help: str
    count: int = 1
    former: str | None = None

    @property
    def parameter(self) -> str:
        """Name of the function parameter that click passes the value as."""
        return self.name.removeprefix("--").replace("-", "_")

    def option(self) -> Callable[..., Any]:
        """Return click's decorator."""
        names = [self.name, *([self.former] if self.former else []), self.parameter]
        if self.kind is bool:
            return click.option(*names, cls=_FlagOption, is_flag=True, default=None, help=self.help)
        if isinstance(self.kind, tuple):
            former = {old: new for new, old in STORED_VALUES.get(self.place, {}).items()}
            words, shown = _word_type(self.kind, former), f"[{'|'.join(self.kind)}]"
            return click.option(*names, cls=_FlagOption, type=words, metavar=shown, help=self.help)
        kind = self.kind if self.count == 1 else str
        return click.option(*names, cls=_FlagOption, type=kind, help=self.help)

    def read(self, value: Any) -> Any:
        """Return the value of the option for the value of the flag; UNSET removes the option.

        Raises:
            DataError: The value is not the number of numbers that the flag takes.
        """
        if self.place == "preprocess.orientation":
            return None if value == "file" else value.upper()
        if self.place == "preprocess.foreground":
            return UNSET if value == "off" else {"margin": numbers(value, int, self.name, count=1)[0]}
        if self.place == "augment.intensity_clip":
            return value == "on"
        if self.count == 1 or isinstance(self.kind, tuple):
            return value
        return numbers(value, self.kind, self.name, count=self.count)


def numbers(text: str, kind: type, option: str, *, count: int) -> list[Any]:
    """Return the `count` comma-separated numbers in `text`; if `count` is 3, one number sets all three.

    Raises:
        DataError: The text is anything else. The message names `option`.
    """
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    if count == 3 and len(values) == 1:
        return values * 3
    if len(values) != count:
        wanted = "one number or three comma-separated numbers"
        if count != 3:
            wanted = "one number" if count == 1 else f"{count} comma-separated numbers"
        raise DataError(
            f"{option} cannot be read", received=repr(text), expected=wanted, fix=f"Correct {option}."
        )
    return values


FLAGS = (
    Flag(
        "--feature-size", "network.feature_size", int, "Channels of the first stage, a multiple of 12 [48]."
    ),
    Flag("--pathways", "network.pathways", int, "Residual blocks per decoder position [6]."),
    Flag(
        "--merging",
        "network.merging",
        MERGINGS,
        "Patch merging; imported weights and --published have v0.9 [v2].",
    ),
    Flag(
        "--patch-size",
        "window.roi",
        int,
        "Window size in voxels: one number or three, comma-separated [128].",
        3,
        former="--roi",
    ),
    Flag("--overlap", "window.overlap", float, "Window overlap at inference with the checkpoint [0.5]."),
    Flag("--spacing", "preprocess.spacing", float, "Voxel size in mm: one number or three [1].", 3),
    Flag(
        "--orientation", "preprocess.orientation", str, "Axis codes (RAS), or 'file' to keep the axes [file]."
    ),
    Flag(
        "--intensity-window",
        "preprocess.intensity_window",
        float,
        "HU values mapped to 0 and 1 [-175,250].",
        2,
    ),
    Flag(
        "--crop-foreground",
        "preprocess.foreground",
        str,
        "Crop images to the voxels above the lower HU value plus this many voxels per side, or 'off' [off].",
    ),
    Flag("--batch-size", "batch_size", int, "Windows (or cases, see --batch-of) per step and process [1]."),
    Flag("--batch-of", "batch_of", ("windows", "cases"), "Unit of --batch-size [windows]."),
    Flag("--windows-per-case", "windows_per_case", int, "Windows per case and epoch [4]."),
    Flag(
        "--structures-per-case",
        "structures_per_case",
        ("all", "one"),
        "Make one case of all structures of an image, or one case per structure [all].",
        former="--rows",
    ),
    Flag(
        "--crop",
        "crop",
        ("centred", "inside"),
        "Windows may extend beyond the image border, or are moved inside it [centred].",
    ),
    Flag("--labelled-share", "labelled_share", float, "Share of windows centred on a labelled voxel [0.5]."),
    Flag("--max-prompts", "max_prompts", int, "Structures trained per window and step, 0 for all [0]."),
    Flag("--phantoms", "phantoms", int, "Synthetic head-and-neck cases per epoch [0]."),
    Flag("--max-epochs", "max_epochs", int, "Number of epochs [500]."),
    Flag(
        "--max-minutes",
        "max_minutes",
        float,
        "End after this time; the learning rate follows it instead of the epochs, 0 for no limit [0].",
    ),
    Flag("--learning-rate", "learning_rate", float, "Peak learning rate [1e-4]."),
    Flag("--weight-decay", "weight_decay", float, "Weight decay of AdamW [1e-5]."),
    Flag(
        "--schedule",
        "schedule",
        ("cosine", "epoch_cosine", "constant"),
        "Learning rate after warm-up [cosine].",
    ),
    Flag("--warmup-epochs", "warmup_epochs", float, "Epochs of linear warm-up [5]."),
    Flag("--clip-gradient", "clip_gradient", float, "Maximum gradient norm, 0 for no clipping [0]."),
    Flag(
        "--foreground-weight",
        "foreground_weight",
        float,
        "Weight of structure voxels in the cross-entropy of warmstart [1].",
    ),
    Flag("--tau", "tau", float, "Temperature of the Gumbel-softmax [1]."),
    Flag("--tau-end", "tau_end", float, "Temperature at the last epoch; decays exponentially [tau]."),
    Flag(
        "--router-learning-rate",
        "router_learning_rate",
        float,
        "Peak learning rate of the routers [--learning-rate].",
    ),
    Flag("--balance", "balance", float, "Weight of the router balance loss, 0 for none [0]."),
    Flag(
        "--router-gap",
        "router_gap",
        float,
        "Difference between the two largest router logits after upcycling [9].",
        former="--router-margin",
    ),
    Flag(
        "--unused-blocks",
        "unused_blocks",
        ("freeze", "decay"),
        "Blocks that no prompt of a step uses: unchanged, or updated by AdamW's momentum and decay [freeze].",
        former="--unsampled",
    ),
    Flag("--amp", "amp", ("auto", "none", "bf16", "fp16"), "Mixed precision [auto]."),
    Flag(
        "--grad-checkpoint",
        "grad_checkpoint",
        bool,
        "Recompute the activations of the transformer in the backward pass.",
    ),
    Flag("--validate-every", "validate_every", int, "Epochs between validations [10]."),
    Flag("--validation-cases", "validation_cases", int, "Cases per validation, 0 for all [0]."),
    Flag("--validation-overlap", "validation_overlap", float, "Window overlap in validation [0.5]."),
    Flag("--save-every", "save_every", int, "Keep the checkpoint of every Nth epoch, 0 for none [0]."),
    Flag("--save-minutes", "save_minutes", float, "Minutes between checkpoints within an epoch [5]."),
    Flag(
        "--timeout-minutes",
        "timeout_minutes",
        float,
        "Minutes after which a process that does not respond is an error [30].",
    ),
    Flag(
        "--mirror",
        "augment.mirror",
        ("sided", "plain"),
        "Swap left and right prompts on mirroring, or not [sided].",
    ),
    Flag("--flip", "augment.flip", float, "Probability of mirroring, per axis [0.2].", 3),
    Flag(
        "--rotate90",
        "augment.rotate90",
        float,
        "Probability of a rotation by a multiple of 90 degrees [0.2].",
    ),
    Flag("--intensity-scale", "augment.intensity_scale", float, "Probability of scaling intensities [0.1]."),
    Flag("--intensity-shift", "augment.intensity_shift", float, "Probability of shifting intensities [0.1]."),
    Flag(
        "--intensity-size", "augment.intensity_size", float, "Maximum relative scale and maximum shift [0.1]."
    ),
    Flag(
        "--intensity-clip",
        "augment.intensity_clip",
        ("on", "off"),
        "Clip augmented intensities to the input range of the network [on].",
    ),
    Flag("--affine", "augment.affine", float, "Probability of a small rotation and zoom [0]."),
    Flag("--text-model", "text_model", str, "open_clip model of the text tower [ViT-B-32-quickgelu]."),
    Flag("--clip-weights", "text_weights", str, "CLIP weights: a tag, a file, or 'random' [laion400m_e32]."),
    Flag("--workers", "workers", int, "Threads that read cases and draw windows, 0 for automatic [0]."),
    Flag("--cache", "cache", str, "Folder of preprocessed cases; several runs may share it [none]."),
    Flag("--seed", "seed", int, "Seed of weights, windows and routing [0]."),
)
