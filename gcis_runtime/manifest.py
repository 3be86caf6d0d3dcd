"""The bundle's manifest: one strict, versioned JSON file that says everything the runtime needs.

`docs/bundle_format.md` describes it for people. Unknown fields are refused: a manifest that says
more than this version understands is not guessed at.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from gcis_runtime.errors import BundleError
from gcis_runtime.spec import PreprocessSpec, WindowSpec

SCHEMA: Final = "gcis-bundle"
SCHEMA_VERSION = 1
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
POSITIONS = ("decoder10", "decoder5", "decoder4", "decoder3", "decoder2", "decoder1", "out")

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Backend = Literal["onnx", "openvino", "trt", "trt-rtx"]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every manifest part: immutable, keyword-only, no unknown fields."""


class Label(_Strict, frozen=True, kw_only=True):
    """One structure: its value in the label map, its name, its prompt, how to draw it.

    The order of the manifest's labels is the order of the graph's output channels.
    """

    value: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    name: str
    prompt: str
    color: tuple[int, int, int]
    codes: dict[str, str] = {}


class PromptPathway(_Strict, frozen=True, kw_only=True):
    """The residual block that a prompt uses at each of the seven `POSITIONS`, counted from 1.

    Attributes:
        margins: Router logit of the chosen pathway minus the runner-up's at each position; None
            when the pathway was given by hand.
    """

    prompt: str
    path_selection: tuple[int, int, int, int, int, int, int]
    margins: tuple[float, float, float, float, float, float, float] | None = None


class Tensor(_Strict, frozen=True, kw_only=True):
    """A graph input or output; `shape` is static, (batch, channel, X, Y, Z)."""

    name: str
    shape: tuple[int, int, int, int, int]
    dtype: Literal["float32"] = "float32"


class FileEntry(_Strict, frozen=True, kw_only=True):
    """A file of the bundle, by path relative to its folder with `/`."""

    path: str
    sha256: Sha256
    bytes: int


class Engine(_Strict, frozen=True, kw_only=True):
    """An engine that the bundle was checked with.

    `onnx` and `openvino` read `model.onnx` (file is that path); compiled engines have their own file.
    """

    backend: Backend
    precision: Precision
    file: str
    backend_version: str
    device: str


class ParityRow(_Strict, frozen=True, kw_only=True):
    """One comparison of the parity gate: `stage` against `reference` on `windows` windows.

    Attributes:
        max_abs: Largest absolute difference of the foreground-minus-background logit.
        scale: Largest absolute value of the reference, to read `max_abs` against.
        labels_changed: Share of voxels whose label (argmax over background and structures) differs.
        tolerance_abs: Limit on `max_abs`.
        tolerance_labels: Limit on `labels_changed`.
    """

    stage: str
    reference: str
    precision: Precision
    windows: int
    max_abs: float
    scale: float
    labels_changed: float
    tolerance_abs: float
    tolerance_labels: float

    @property
    def passed(self) -> bool:
        """Both limits hold; false for a NaN difference."""
        return self.max_abs <= self.tolerance_abs and self.labels_changed <= self.tolerance_labels


class Provenance(_Strict, frozen=True, kw_only=True):
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


class Manifest(_Strict, frozen=True, kw_only=True):
    """Everything that `gcis-run` needs to know of a bundle beside the weights."""

    schema: Literal["gcis-bundle"] = SCHEMA
    schema_version: Annotated[int, msgspec.Meta(ge=1)] = SCHEMA_VERSION
    name: str
    created: str
    notice: str
    preprocess: PreprocessSpec
    window: WindowSpec
    labels: tuple[Label, ...]
    pathways: tuple[PromptPathway, ...]
    input: Tensor
    output: Tensor
    weights_dtype: Literal["float32", "float16"]
    engines: tuple[Engine, ...]
    files: tuple[FileEntry, ...]
    parity: tuple[ParityRow, ...]
    provenance: Provenance
    versions: dict[str, str]

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("a bundle needs at least one label")
        values = [label.value for label in self.labels]
        if len(set(values)) != len(values):
            raise ValueError(f"label values {values} are not distinct")
        if [p.prompt for p in self.pathways] != [label.prompt for label in self.labels]:
            raise ValueError("pathways and labels do not name the same prompts in the same order")
        if self.output.shape[1] != len(self.labels):
            raise ValueError(f"{self.output.shape[1]} output channels for {len(self.labels)} labels")
        if self.input.shape[2:] != self.window.roi or self.output.shape[2:] != self.window.roi:
            raise ValueError(f"graph shapes do not end in the window {self.window.roi}")
        if MODEL_FILE not in [f.path for f in self.files]:
            raise ValueError(f"{MODEL_FILE} is not among the files")


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


class _Head(msgspec.Struct):
    """The two fields that say whether the rest can be understood."""

    schema: str = ""
    schema_version: int = 0


def decode(data: bytes, *, source: str) -> Manifest:
    """Read a manifest strictly.

    Args:
        data: JSON bytes.
        source: Where they came from, for messages.

    Raises:
        BundleError: Not JSON, another schema or version, an unknown, missing or wrong field.
    """
    try:
        head = msgspec.json.decode(data, type=_Head)
    except msgspec.DecodeError as error:
        raise BundleError(
            f"{source} is not a bundle manifest", received=str(error), fix="Export the bundle again."
        ) from error
    if (head.schema, head.schema_version) != (SCHEMA, SCHEMA_VERSION):
        raise BundleError(
            f"{source} has another schema",
            received=f"{head.schema!r} version {head.schema_version}",
            expected=f"{SCHEMA!r} version {SCHEMA_VERSION}",
            fix="Use the gcis version that wrote it, or export the checkpoint again.",
        )
    try:
        return msgspec.json.decode(data, type=Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(
            f"{source} does not follow the schema", received=str(error), fix="Export the bundle again."
        ) from error
