"""Define the parts of a bundle manifest as strict, immutable values."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec

from gcis_runtime.bundles.post_rules import PostRules
from gcis_runtime.choices import EngineName, Merging, Precision

WeightsDtype = Literal["float32", "float16", "bfloat16", "int8"]
Count = Annotated[int, msgspec.Meta(ge=0)]
Channel = Annotated[int, msgspec.Meta(ge=0, le=255)]
Batch = Annotated[int, msgspec.Meta(ge=1)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class of the manifest parts: immutable, keyword-only, unknown fields are an error."""


class Label(Strict, frozen=True, kw_only=True):
    """One structure: label map value, name, prompt, RGB color and codes by coding scheme.

    `post` are rules that clean the structure in finished label maps; omitted from files if there are none.
    The labels of a manifest are in the order of the output channels of the graph.
    """

    value: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    name: str
    prompt: str
    color: tuple[Channel, Channel, Channel]
    codes: dict[str, str] = {}
    post: PostRules | msgspec.UnsetType = msgspec.UNSET


class PromptPathway(Strict, frozen=True, kw_only=True):
    """Residual block that a prompt uses at each of the seven `POSITIONS`, counted from 1.

    Attributes:
        prompt: The prompt.
        path_selection: Number of the block per position.
        router_gaps: Router logit of the selected block minus that of the runner-up, per position (`margins`
            in files); None if the pathway was selected by hand.
        untrained: True if the network was not trained with the prompt; omitted from files otherwise.
    """

    prompt: str
    path_selection: tuple[int, int, int, int, int, int, int]
    router_gaps: tuple[float, float, float, float, float, float, float] | None = msgspec.field(
        default=None, name="margins"
    )
    untrained: bool | msgspec.UnsetType = msgspec.UNSET


class Tensor(Strict, frozen=True, kw_only=True):
    """Input or output of a graph with the static shape (batch, channels, X, Y, Z)."""

    name: str
    shape: tuple[int, int, int, int, int]
    dtype: Literal["float32"] = "float32"


class FileEntry(Strict, frozen=True, kw_only=True):
    """A file of the bundle; `path` is relative to the bundle folder, with `/` as the separator."""

    path: str
    sha256: Sha256
    bytes: Count


class Graph(Strict, frozen=True, kw_only=True):
    """An ONNX file of the bundle. The first, `model.onnx`, is the reference: fp32, batch size 1.

    Attributes:
        file: Path, as returned by `graph_file` for precision and batch size.
        precision: Precision of convolutions and matrix products.
        batch: Windows per run.
        opset: ONNX operator set version; 0 if not recorded (bundles of schema version 1).
        nodes: Number of operators; 0 if not recorded (bundles of schema version 1).
        weights_dtype: Storage type of large weights.
    """

    file: str
    precision: Precision
    batch: Batch = 1
    opset: Count
    nodes: Count
    weights_dtype: WeightsDtype


class Engine(Strict, frozen=True, kw_only=True):
    """An engine that the bundle offers.

    Attributes:
        backend: Name of the engine.
        precision: Precision that the engine computes in, as read from the engine itself.
        file: File that is loaded: the graph for `onnx` and `openvino`, else the compiled engine.
        graph: ONNX file that the engine loads or was built from.
        backend_version: Version of the engine software that built and checked it.
        device: `cpu`, `cuda`, a compute capability (`sm_89`), or a compute capability and later (`sm_80+`).
        batch: Windows per run.
        settings: Build settings for display: optimization level, compatibility, build time.
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
    """Result of one comparison of the parity gate.

    Fields that bundles of schema version 1 did not record are None there.

    Attributes:
        stage: Graph or engine that was compared.
        reference: Stage that it was compared with.
        precision: Precision that `stage` computes in.
        graph: ONNX file that `stage` ran; empty for PyTorch.
        windows: Number of compared windows.
        max_abs: Largest absolute difference of the logits (foreground minus background).
        max_rel: Largest difference within a window divided by the largest absolute value of the reference in
            that window, maximum over the windows.
        scale: Largest absolute value of the reference.
        labels_changed: Share of voxels whose label (argmax over background and structures) differs.
        labels_decided: Share of voxels that are decided in the reference and whose label differs. If None,
            `labels_changed` is compared with the limit.
        undecided: Share of voxels that are undecided in the reference; small for trained networks.
        dice: Dice between the two label maps, mean over the structures; also None if no structure has enough
            voxels.
        tolerance_abs: `tolerance_rel` times `scale`, for comparison with `max_abs`.
        tolerance_rel: Upper limit on `max_rel`. If None, `tolerance_abs` is the upper limit on `max_abs`.
        tolerance_labels: Upper limit on `labels_decided`.
        tolerance_dice: Lower limit on `dice`.
        band: Voxels whose label in the reference leads the runner-up by at most this share of the window's
            largest absolute value are undecided.
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
        """`max_rel`, or `max_abs` divided by `scale` in rows of schema version 1."""
        return _share(self.max_abs, self.scale) if self.max_rel is None else self.max_rel

    @property
    def limit_relative(self) -> float:
        """Upper limit on `relative`."""
        return _share(self.tolerance_abs, self.scale) if self.tolerance_rel is None else self.tolerance_rel

    @property
    def decided(self) -> float:
        """Share of voxels that is compared with `tolerance_labels`."""
        return self.labels_changed if self.labels_decided is None else self.labels_decided

    @property
    def passed(self) -> bool:
        """Whether all values are within their limits; false for a NaN difference."""
        alike = self.dice is None or self.tolerance_dice is None or self.dice >= self.tolerance_dice
        return self.relative <= self.limit_relative and self.decided <= self.tolerance_labels and alike


def _share(part: float, whole: float) -> float:
    return part / whole if whole else (math.inf if part else 0.0)


class Provenance(Strict, frozen=True, kw_only=True):
    """Origin of the weights.

    Attributes:
        checkpoint_sha256: SHA-256 of `weights.safetensors` of the checkpoint.
        text_model: open_clip model name of the text encoder.
        text_weights: Tag or file name of the text encoder weights; `"random (seed N)"` if no pretrained
            weights were available; prompts outside the training are then meaningless to the router.
        merging: Patch merging of the network; unset in bundles that do not record it.
        training: Notes on the training (data, epochs, dates) for display only.
    """

    checkpoint_sha256: Sha256
    text_model: str
    text_weights: str
    merging: Merging | msgspec.UnsetType = msgspec.UNSET
    training: dict[str, Any] = {}

    @property
    def network_merging(self) -> Merging:
        """Patch merging of the network; bundles that do not record it have `"v2"`."""
        return "v2" if self.merging is msgspec.UNSET else self.merging
