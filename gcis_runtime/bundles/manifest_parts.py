"""Define the parts of a bundle manifest as strict, immutable values; `manifest` assembles them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec

from gcis_runtime.choices import EngineName, Precision

WeightsDtype = Literal["float32", "float16", "bfloat16", "int8"]
Count = Annotated[int, msgspec.Meta(ge=0)]
Batch = Annotated[int, msgspec.Meta(ge=1)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every manifest part: immutable, keyword-only, no unknown fields."""


class Label(Strict, frozen=True, kw_only=True):
    """One structure: label value, name, text prompt, display color and codes of terminologies.

    The order of the manifest's labels is the order of the graph's output channels.
    """

    value: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    name: str
    prompt: str
    color: tuple[int, int, int]
    codes: dict[str, str] = {}


class PromptPathway(Strict, frozen=True, kw_only=True):
    """The residual block that a prompt uses at each of the seven `POSITIONS`, counted from 1.

    Attributes:
        margins: Router gap at each position: the logit of the selected block minus that of the runner-up;
            None if the user selected the pathway.
    """

    prompt: str
    path_selection: tuple[int, int, int, int, int, int, int]
    margins: tuple[float, float, float, float, float, float, float] | None = None


class Tensor(Strict, frozen=True, kw_only=True):
    """A graph input or output; `shape` is static, (batch, channel, X, Y, Z)."""

    name: str
    shape: tuple[int, int, int, int, int]
    dtype: Literal["float32"] = "float32"


class FileEntry(Strict, frozen=True, kw_only=True):
    """A file of the bundle, by path relative to its folder with `/`."""

    path: str
    sha256: Sha256
    bytes: Count


class Graph(Strict, frozen=True, kw_only=True):
    """An ONNX file of the bundle. The first, `model.onnx`, is the portable reference: fp32, batch 1.

    Attributes:
        file: Path; `graph_file` derives it from precision and batch.
        precision: Arithmetic of its large operations.
        batch: Windows per run.
        opset: ONNX operator set; 0 if it was not recorded (bundles of schema version 1).
        nodes: Number of operators; 0 as above.
        weights_dtype: Storage type of large weights.
    """

    file: str
    precision: Precision
    batch: Batch = 1
    opset: Count
    nodes: Count
    weights_dtype: WeightsDtype


class Engine(Strict, frozen=True, kw_only=True):
    """An engine that passed the parity gate of the export.

    Attributes:
        backend: Engine.
        precision: Arithmetic, as read back from the engine.
        file: File to load: the graph for `onnx` and `openvino`, `engine_file` for compiled engines.
        graph: The ONNX file that it reads or was built from.
        backend_version: The version that built and checked it.
        device: `cpu`, `cuda`, a compute capability (`sm_89`), or one and all later ones (`sm_80+`).
        batch: Windows per run.
        settings: Build settings, for display only: optimisation level, compatibility, seconds.
    """

    backend: EngineName
    precision: Precision
    file: str
    graph: str
    backend_version: str
    device: str
    batch: Batch = 1
    settings: dict[str, str] = {}


class ParityRow(Strict, frozen=True, kw_only=True):
    """One comparison by the parity gate: `stage` against `reference` on `windows` windows.

    Attributes:
        graph: The ONNX file that `stage` ran; empty for PyTorch.
        max_abs: Largest absolute difference of the foreground-minus-background logit.
        max_rel: Largest value over the windows of `max_abs` divided by the largest absolute logit of the
            reference; None if it was not recorded (bundles of schema version 1).
        scale: Largest absolute logit of the reference, for comparison with `max_abs`.
        labels_changed: Share of voxels whose label (argmax over background and structures) differs.
        labels_decided: The same share over voxels at which the reference's two best scores differ by more
            than `band`; None as above, in which case `labels_changed` is compared with the limit.
        undecided: Share of voxels at which they differ by at most `band`; small for a trained network.
        dice: Mean Dice between the two label maps over the structures present; None if no structure has
            enough voxels, or as above.
        tolerance_abs: `tolerance_rel` times `scale`, for comparison with `max_abs`.
        tolerance_rel: Limit on `max_rel`; None as above, in which case `tolerance_abs` limits `max_abs`.
        tolerance_labels: Limit on `labels_decided`.
        tolerance_dice: Lower limit on `dice`; None as above.
        band: Difference between the reference's two best scores, as a share of the window's largest absolute
            logit, up to which a voxel counts as undecided.
    """

    stage: str
    reference: str
    precision: Precision
    graph: str = ""
    windows: int
    max_abs: float
    max_rel: float | None = None
    scale: float
    labels_changed: float
    labels_decided: float | None = None
    undecided: float = 0.0
    dice: float | None = None
    tolerance_abs: float
    tolerance_rel: float | None = None
    tolerance_labels: float
    tolerance_dice: float | None = None
    band: float = 0.0

    @property
    def relative(self) -> float:
        """`max_rel`; in rows of schema version 1, `max_abs` divided by `scale`."""
        return _share(self.max_abs, self.scale) if self.max_rel is None else self.max_rel

    @property
    def limit_relative(self) -> float:
        """Limit on `relative`."""
        return _share(self.tolerance_abs, self.scale) if self.tolerance_rel is None else self.tolerance_rel

    @property
    def decided(self) -> float:
        """Share of voxels that `tolerance_labels` limits."""
        return self.labels_changed if self.labels_decided is None else self.labels_decided

    @property
    def passed(self) -> bool:
        """Whether all limits hold; False for a NaN difference."""
        alike = self.dice is None or self.tolerance_dice is None or self.dice >= self.tolerance_dice
        return self.relative <= self.limit_relative and self.decided <= self.tolerance_labels and alike


def _share(part: float, whole: float) -> float:
    return part / whole if whole else (math.inf if part else 0.0)


class Provenance(Strict, frozen=True, kw_only=True):
    """The origin of the weights.

    Attributes:
        checkpoint_sha256: Hash of the checkpoint's `weights.safetensors`.
        text_model: open_clip model name of the text tower.
        text_weights: Tag or file name of its weights; `"random (seed N)"` for random weights, in which case
            the router cannot interpret prompts outside the checkpoint's table.
        training: Free notes about the training (data, epochs, dates), displayed and never interpreted.
    """

    checkpoint_sha256: Sha256
    text_model: str
    text_weights: str
    training: dict[str, Any] = {}
