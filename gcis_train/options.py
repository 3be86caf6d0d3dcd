"""Everything a training run is decided by, as one value that the run folder keeps."""

from __future__ import annotations

from typing import Literal

import msgspec

from gcis_runtime.spec import PreprocessSpec, WindowSpec
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
        affine: Probability of a small rotation and zoom.
        degrees: Largest angle about each axis.
        zoom: Largest relative change of size.
    """

    mirror: Literal["sided", "plain"] = "sided"
    flip: tuple[float, float, float] = (0.1, 0.1, 0.1)
    rotate90: float = 0.1
    intensity_scale: float = 0.1
    intensity_shift: float = 0.5
    intensity_size: float = 0.1
    affine: float = 0.0
    degrees: float = 10.0
    zoom: float = 0.15


class TrainOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a run. The defaults are the published recipe, but for mirroring with sides.

    Attributes:
        windows_per_case: Windows drawn from a case in an epoch.
        labelled_share: Share of windows centred on a labelled voxel; the others on any body voxel.
        max_prompts: Labelled structures of a window that are trained in one step; 0 means all.
        phantoms: Synthetic cases added to each epoch (new ones every epoch, from the seed).
        foreground_weight: Weight of structures in the warm start's cross-entropy; 1 is unweighted.
        tau: Temperature of the Gumbel-softmax.
        amp: Autocast type of the forward pass.
        warmup_epochs: Epochs of linear warm-up before the cosine.
        clip_gradient: Largest gradient norm; 0 leaves it alone.
        validate_every: Epochs between validations.
        validation_cases: Cases of a validation; 0 means all.
        validation_overlap: Window overlap of a validation.
        cache: Folder of pre-processed cases, which runs may share; empty keeps cases in memory only.
    """

    network: NetworkConfig = NetworkConfig()
    preprocess: PreprocessSpec = PreprocessSpec()
    window: WindowSpec = WindowSpec(roi=(128, 128, 128))
    augment: AugmentSpec = AugmentSpec()
    seed: int = 0
    batch_size: int = 1
    windows_per_case: int = 4
    labelled_share: float = 0.5
    max_prompts: int = 0
    phantoms: int = 0
    max_epochs: int = 500
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    warmup_epochs: float = 5.0
    clip_gradient: float = 0.0
    foreground_weight: float = 1.0
    tau: float = 1.0
    amp: Literal["none", "bf16", "fp16"] = "fp16"
    grad_checkpoint: bool = False
    validate_every: int = 10
    validation_cases: int = 0
    validation_overlap: float = 0.5
    text_model: str = "ViT-B-32-quickgelu"
    text_weights: str = "openai"
    text_seed: int = 0
    cache: str = ""

    def __post_init__(self) -> None:
        if min(self.batch_size, self.windows_per_case, self.max_epochs, self.validate_every) < 1:
            raise ValueError("batch size, windows a case, epochs and validation interval are at least 1")
        if self.learning_rate <= 0 or self.tau <= 0:
            raise ValueError("learning rate and tau are positive")
        if not 0 <= self.labelled_share <= 1:
            raise ValueError(f"labelled_share {self.labelled_share} is not a share")
        counts = (self.max_prompts, self.phantoms, self.validation_cases)
        if min(*counts, self.warmup_epochs, self.clip_gradient, self.weight_decay) < 0:
            raise ValueError("counts, warm-up, gradient limit and weight decay are not negative")
        if not 0 <= self.validation_overlap < 1:
            raise ValueError(f"validation_overlap {self.validation_overlap} is not in [0, 1)")
