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
    """One structure: its value in the label map, its name, its prompt, how to draw it.

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
        margins: Router logit of the chosen pathway minus the runner-up's at each position; None
            when the pathway was given by hand.
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
    """An ONNX file of the bundle. The first, `model.onnx`, is the portable truth: fp32, batch 1.

    Attributes:
        file: Its path; `graph_file` makes it from precision and batch.
        precision: What its large operations compute in.
        batch: Windows a run.
        opset: ONNX operator set; 0 where it was not recorded (bundles of schema version 1).
        nodes: Operators; 0 as above.
        weights_dtype: How large weights are stored.
    """

    file: str
    precision: Precision
    batch: Batch = 1
    opset: Count
    nodes: Count
    weights_dtype: WeightsDtype


class Engine(Strict, frozen=True, kw_only=True):
    """An engine that the bundle was checked with.

    Attributes:
        backend: Which engine.
        precision: What it computes in, as read back from it.
        file: What is loaded: the graph for `onnx` and `openvino`, `engine_file` for compiled ones.
        graph: The ONNX file that it reads or was built from.
        backend_version: The version that built and checked it.
        device: `cpu`, `cuda`, a compute capability (`sm_89`), or one and all later ones (`sm_80+`).
        batch: Windows a run.
        settings: How it was built, for people: optimisation level, compatibility, seconds.
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
    """One comparison of the parity gate: `stage` against `reference` on `windows` windows.

    Attributes:
        graph: The ONNX file that `stage` ran; empty for PyTorch.
        max_abs: Largest absolute difference of the foreground-minus-background logit.
        max_rel: Largest over the windows of a window's `max_abs` as a share of its reference's largest
            absolute value; None where it was not recorded (bundles of schema version 1).
        scale: Largest absolute value of the reference, to read `max_abs` against.
        labels_changed: Share of voxels whose label (argmax over background and structures) differs.
        labels_decided: The same, counting only voxels whose label the reference decides by more than `band`;
            None as above: then `labels_changed` is judged.
        undecided: Share of voxels that it does not; a trained network leaves few.
        dice: Mean over the structures present of the Dice between the two label results; None where no
            structure has voxels enough to say, or as above.
        tolerance_abs: `tolerance_rel` times `scale`, to read `max_abs` against.
        tolerance_rel: Limit on `max_rel`; None as above: then `tolerance_abs` is the limit on `max_abs`.
        tolerance_labels: Limit on `labels_decided`.
        tolerance_dice: Lower limit on `dice`; None as above.
        band: Lead of the reference's label over the next, as a share of the window's largest absolute
            value, up to which a voxel counts as undecided.
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
        """`max_rel`, or in rows of schema version 1 what their largest difference is of their scale."""
        return _share(self.max_abs, self.scale) if self.max_rel is None else self.max_rel

    @property
    def limit_relative(self) -> float:
        """Limit on `relative`."""
        return _share(self.tolerance_abs, self.scale) if self.tolerance_rel is None else self.tolerance_rel

    @property
    def decided(self) -> float:
        """Share of voxels that `tolerance_labels` judges."""
        return self.labels_changed if self.labels_decided is None else self.labels_decided

    @property
    def passed(self) -> bool:
        """All limits hold; false for a NaN difference."""
        alike = self.dice is None or self.tolerance_dice is None or self.dice >= self.tolerance_dice
        return self.relative <= self.limit_relative and self.decided <= self.tolerance_labels and alike


def _share(part: float, whole: float) -> float:
    return part / whole if whole else (math.inf if part else 0.0)


class Provenance(Strict, frozen=True, kw_only=True):
    """Where the weights come from.

    Attributes:
        checkpoint_sha256: Hash of the checkpoint's `weights.safetensors`.
        text_model: open_clip model name of the text tower.
        text_weights: Tag or file name of its weights; `"random (seed N)"` when none were had, which means
            that prompts outside the table mean nothing to the router.
        training: Free notes of the training (data, epochs, dates), shown and never interpreted.
    """

    checkpoint_sha256: Sha256
    text_model: str
    text_weights: str
    training: dict[str, Any] = {}
