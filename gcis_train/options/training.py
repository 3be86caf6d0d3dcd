"""Everything a training run is decided by, as one value that the run folder keeps."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from gcis_runtime.spec import PreprocessSpec, WindowSpec, check_padding
from gcis_train.nets.config import NetworkConfig


class AugmentSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Probabilities and sizes of the random changes to a training window.

    Attributes:
        mirror: `"sided"` gives a window mirrored left to right the mirrored prompts, and leaves it as it
            is where a prompt has no mirrored one; `"plain"` mirrors as published, prompts unchanged.
        flip: Probability of mirroring along each axis.
        rotate90: Probability of a 90, 180 or 270 degree turn in the plane of the first two axes.
        intensity_scale: Probability of multiplying the intensities by 1 +- `intensity_size`.
        intensity_shift: Probability of adding +- `intensity_size`.
        intensity_size: Size of both.
        intensity_clip: Clip the changed intensities to [0, 1], as the network sees them in use.
        affine: Probability of a small rotation and zoom.
        degrees: Largest angle about each axis.
        zoom: Largest relative change of size.
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
            raise ValueError("sizes of augmentations are not negative, angles below 180 degrees")


class TrainOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a run. The published recipe, but for what `--published` (recipe.py) sets otherwise.

    Attributes:
        batch_size: What each process trains in a step.
        batch_of: `"windows"`, drawn from all cases in any order, or `"cases"`, each with all its windows.
        windows_per_case: Windows drawn from a case in an epoch.
        rows: `"together"` makes one case of an image's structures: the encoder runs once for all of them;
            `"apart"` makes one of each, with windows of its own.
        crop: `"centred"` windows lie around their voxel and may reach beyond the case; `"inside"` pulls them
            back to where the image is not empty, as published.
        labelled_share: Share of windows centred on a labelled voxel; the others on any body voxel.
        max_prompts: Labelled structures of a window that are trained in one step; 0 means all.
        phantoms: Synthetic cases added to each epoch (new ones every epoch, from the seed).
        schedule: After the linear warm-up: `"cosine"` to zero, step by step; `"epoch_cosine"`, the same
            epoch by epoch with a first epoch at zero, as published; `"constant"`.
        warmup_epochs: Epochs of linear warm-up.
        clip_gradient: Largest gradient norm; 0 leaves it alone.
        foreground_weight: Weight of structures in the warm start's cross-entropy; 1 is unweighted.
        tau: Temperature of the Gumbel-softmax.
        tau_end: Temperature at the end of the training, reached geometrically; None keeps `tau`.
        router_learning_rate: Peak rate of the routers; None is that of everything else.
        balance: Weight of the term that keeps prompts apart (health.py); 0 leaves it out.
        router_margin: Logit by which a prompt's own block leads after a static network was copied into every
            pathway (docs/decisions/0010).
        unsampled: What AdamW does to a block that no prompt of a step sampled: `"rest"`, nothing, or
            `"drift"`, as published: a zero gradient, so that its momentum and decay go on.
        amp: Autocast type of the forward pass.
        validate_every: Epochs between validations.
        validation_cases: Cases of a validation; 0 means all.
        validation_overlap: Window overlap of a validation.
        cache: Folder of pre-processed cases, which runs may share; empty keeps cases in memory only.
        save_every: Epochs between checkpoints that are kept for good; 0 keeps the latest and the best only.
        save_minutes: Minutes between checkpoints within an epoch.
        timeout_minutes: Longest wait of a process for the others.
    """

    network: NetworkConfig = NetworkConfig()
    preprocess: PreprocessSpec = PreprocessSpec()
    window: WindowSpec = WindowSpec(patch_size=(128, 128, 128))
    augment: AugmentSpec = AugmentSpec()
    seed: int = 0
    batch_size: int = 1
    batch_of: Literal["windows", "cases"] = "windows"
    windows_per_case: int = 4
    rows: Literal["together", "apart"] = "together"
    crop: Literal["centred", "inside"] = "centred"
    labelled_share: float = 0.5
    max_prompts: int = 0
    phantoms: int = 0
    max_epochs: int = 500
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
    router_margin: float = 9.0
    unsampled: Literal["rest", "drift"] = "rest"
    amp: Literal["none", "bf16", "fp16"] = "fp16"
    grad_checkpoint: bool = False
    validate_every: int = 10
    validation_cases: int = 0
    validation_overlap: float = 0.5
    save_every: int = 0
    save_minutes: float = 5.0
    timeout_minutes: float = 30.0
    text_model: str = "ViT-B-32-quickgelu"
    text_weights: str = "openai"
    text_seed: int = 0
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
    "learning_rate", "router_learning_rate", "tau", "tau_end", "router_margin", "timeout_minutes",
    "foreground_weight",
)  # fmt: skip
_NOT_NEGATIVE = (
    "max_prompts", "phantoms", "validation_cases", "save_every", "warmup_epochs", "clip_gradient",
    "weight_decay", "balance", "save_minutes",
)  # fmt: skip
