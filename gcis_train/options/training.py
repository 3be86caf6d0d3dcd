"""Define the options of a training run as one immutable value, which is stored in the run folder."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from gcis_runtime.spec import PreprocessSpec, WindowSpec, check_padding
from gcis_train.nets.config import PUBLISHED_TEXT_WEIGHTS, NetworkConfig

Precision = Literal["none", "bf16", "fp16"]
"""Autocast type of the forward pass; `"none"` computes in float32."""


class AugmentSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Probabilities and magnitudes of the random augmentation of a training window.

    Attributes:
        mirror: `"sided"` swaps left and right in the prompts of a window mirrored along the left-right axis,
            and does not mirror a window that has a prompt without a counterpart; `"plain"` mirrors as
            published and leaves the prompts unchanged.
        flip: Probability of mirroring along each axis.
        rotate90: Probability of a rotation by 90, 180 or 270 degrees in the plane of the first two axes.
        intensity_scale: Probability of multiplying the intensities by a factor in 1 +- `intensity_size`.
        intensity_shift: Probability of adding an offset in +- `intensity_size`.
        intensity_size: Maximum relative scale and maximum shift.
        intensity_clip: Clip the augmented intensities to [0, 1], the range of the network input at inference.
        affine: Probability of a small rotation and zoom.
        degrees: Maximum rotation angle about each axis, in degrees.
        zoom: Maximum relative change of size.
    """

    mirror: Literal["sided", "plain"] = "sided"
    flip: tuple[float, float, float] = (0.2, 0.2, 0.2)
    rotate90: float = 0.2
    intensity_scale: float = 0.1
    intensity_shift: float = 0.1
    intensity_size: float = 0.1
    intensity_clip: bool = True
    affine: float = 0.0
    degrees: float = 10.0
    zoom: float = 0.15

    def __post_init__(self) -> None:
        chances = (*self.flip, self.rotate90, self.intensity_scale, self.intensity_shift, self.affine)
        if not all(0 <= p <= 1 for p in chances):
            raise ValueError(f"augmentation probabilities {chances} are not all in [0, 1]")
        if not all(0 <= v < 180 for v in (self.intensity_size, self.degrees, self.zoom)):
            raise ValueError("intensity_size, degrees and zoom must be at least 0 and below 180")


class TrainOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a training run.

    The defaults differ from the published recipe where recipe.py lists another value.

    Attributes:
        network: Sizes of the network.
        preprocess: Preprocessing of every image.
        window: Sliding window; training windows have its size.
        augment: Augmentation of training windows.
        seed: Seed of weights, windows and routing.
        batch_size: Windows or cases per step and process.
        batch_of: `"windows"`, drawn from all cases in any order, or `"cases"`, each with all its windows.
        windows_per_case: Windows drawn per case and epoch.
        structures_per_case: `"all"` makes one case of all structures of an image, so that the encoder runs
            once for all of them; `"one"` makes one case per structure, each with its own windows.
        crop: `"centred"` windows are centred on the drawn voxel and may extend beyond the case; `"inside"`
            moves them into the non-empty part of the image, as published.
        labelled_share: Share of windows centred on a labelled voxel; the others are centred on any body
            voxel.
        max_prompts: Labelled structures per window that are trained in one step; 0 means all.
        phantoms: Synthetic cases added per epoch (different ones every epoch, derived from the seed).
        max_epochs: Number of epochs.
        max_minutes: Minutes of training, validation and checkpoints, which the schedules follow instead of
            the epochs; 0 means no limit. The run ends after this time, whatever `max_epochs` is, and
            `warmup_epochs / max_epochs` of it are the warm-up.
        learning_rate: Peak learning rate.
        weight_decay: Weight decay of AdamW.
        schedule: Learning rate after the linear warm-up: `"cosine"` decays to zero step by step;
            `"epoch_cosine"` decays epoch by epoch and starts at zero, as published; `"constant"` keeps the
            peak.
        warmup_epochs: Epochs of linear warm-up.
        clip_gradient: Maximum gradient norm; 0 disables clipping.
        foreground_weight: Weight of structure voxels in the cross-entropy of the warm start, relative to
            background.
        tau: Temperature of the Gumbel-softmax.
        tau_end: Temperature at the end of the training, reached by exponential decay; None keeps `tau`.
        router_learning_rate: Peak learning rate of the routers; None uses `learning_rate`.
        balance: Weight of the balance loss of the routers (routing/health.py); 0 omits it.
        router_gap: Difference between the two largest router logits of each prompt after a static network was
            copied into every pathway (docs/decisions/0010).
        unused_blocks: Treatment of blocks that no prompt of a step uses: `"freeze"` leaves them unchanged;
            `"decay"` gives them a zero gradient, as published, so that momentum and weight decay continue.
        amp: Autocast type of the forward pass.
        grad_checkpoint: Recompute the activations of the transformer in the backward pass.
        validate_every: Epochs between validations.
        validation_cases: Cases per validation; 0 means all.
        validation_overlap: Window overlap in validation.
        save_every: Interval in epochs at which a checkpoint is kept; 0 keeps only the latest and the best.
        save_minutes: Minutes between checkpoints within an epoch.
        timeout_minutes: Minutes after which a process that does not respond is an error.
        text_model: open_clip model of the text tower.
        text_weights: Tag or file of CLIP weights, or `"random"`.
        text_seed: Seed of random text weights.
        workers: Threads that read cases and draw windows, per process; 0 chooses by the usable CPUs.
        cache: Folder of preprocessed cases, which several runs may share; empty keeps cases in memory only.
    """

    network: NetworkConfig = NetworkConfig()
    preprocess: PreprocessSpec = PreprocessSpec()
    window: WindowSpec = WindowSpec(patch_size=(128, 128, 128))
    augment: AugmentSpec = AugmentSpec()
    seed: int = 0
    batch_size: int = 1
    batch_of: Literal["windows", "cases"] = "windows"
    windows_per_case: int = 4
    structures_per_case: Literal["all", "one"] = "all"
    crop: Literal["centred", "inside"] = "centred"
    labelled_share: float = 0.5
    max_prompts: int = 0
    phantoms: int = 0
    max_epochs: int = 500
    max_minutes: float = 0.0
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    schedule: Literal["cosine", "epoch_cosine", "constant"] = "cosine"
    warmup_epochs: float = 5.0
    clip_gradient: float = 0.0
    foreground_weight: float = 1.0
    tau: float = 1.0
    tau_end: float | None = None
    router_learning_rate: float | None = None
    balance: float = 0.0
    router_gap: float = 9.0
    unused_blocks: Literal["freeze", "decay"] = "freeze"
    amp: Precision = "fp16"
    grad_checkpoint: bool = False
    validate_every: int = 10
    validation_cases: int = 0
    validation_overlap: float = 0.5
    save_every: int = 0
    save_minutes: float = 5.0
    timeout_minutes: float = 30.0
    text_model: str = "ViT-B-32-quickgelu"
    text_weights: str = PUBLISHED_TEXT_WEIGHTS
    text_seed: int = 0
    workers: int = 0
    cache: str = ""

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: at least 1 is needed")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} {value} is not a positive number")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} must be a number and not negative")
        if not 0 <= self.labelled_share <= 1:
            raise ValueError(f"labelled_share {self.labelled_share} is not a share")
        if not 0 <= self.validation_overlap < 1:
            raise ValueError(f"validation_overlap {self.validation_overlap} is not in [0, 1)")
        check_padding(self.preprocess, self.window)


_AT_LEAST_ONE = ("batch_size", "windows_per_case", "max_epochs", "validate_every")
_POSITIVE = (
    "learning_rate", "router_learning_rate", "tau", "tau_end", "router_gap", "timeout_minutes",
    "foreground_weight",
)  # fmt: skip
_NOT_NEGATIVE = (
    "max_prompts", "phantoms", "validation_cases", "save_every", "warmup_epochs", "clip_gradient",
    "weight_decay", "balance", "save_minutes", "max_minutes", "workers",
)  # fmt: skip
