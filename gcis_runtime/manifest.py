"""The bundle's manifest: one strict, versioned JSON file that says everything the runtime needs.

`docs/bundle_format.md` describes it for people. Unknown fields are refused: a manifest that says
more than this version understands is not guessed at.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from gcis_runtime.errors import BundleError
from gcis_runtime.manifest_upgrade import upgrade
from gcis_runtime.spec import PreprocessSpec, WindowSpec

SCHEMA: Final = "gcis-bundle"
SCHEMA_VERSION: Final = 2
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
POSITIONS = ("decoder10", "decoder5", "decoder4", "decoder3", "decoder2", "decoder1", "out")

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Backend = Literal["onnx", "openvino", "trt", "trt-rtx"]
GRAPH_BACKENDS: Final = ("onnx", "openvino")
"""Engines that load an ONNX file as it is; the others are compiled into a file of their own."""
WeightsDtype = Literal["float32", "float16", "bfloat16", "int8"]
Count = Annotated[int, msgspec.Meta(ge=0)]
Batch = Annotated[int, msgspec.Meta(ge=1)]
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
    bytes: Count


class Graph(_Strict, frozen=True, kw_only=True):
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


class Engine(_Strict, frozen=True, kw_only=True):
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

    backend: Backend
    precision: Precision
    file: str
    graph: str
    backend_version: str
    device: str
    batch: Batch = 1
    settings: dict[str, str] = {}


class ParityRow(_Strict, frozen=True, kw_only=True):
    """One comparison of the parity gate: `stage` against `reference` on `windows` windows.

    Attributes:
        graph: The ONNX file that `stage` ran; empty for PyTorch.
        max_abs: Largest absolute difference of the foreground-minus-background logit.
        max_rel: Largest over the windows of a window's `max_abs` as a share of its reference's largest
            absolute value; None where it was not recorded (bundles of schema version 1).
        scale: Largest absolute value of the reference, to read `max_abs` against.
        labels_changed: Share of voxels whose label (argmax over background and structures) differs.
        dice: Mean over the structures present of the Dice between the two label results; None as above.
        tolerance_abs: Limit on `max_abs`.
        tolerance_labels: Limit on `labels_changed`.
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
    dice: float | None = None
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
    schema_version: Literal[2] = SCHEMA_VERSION
    name: str
    created: str
    notice: str
    preprocess: PreprocessSpec
    window: WindowSpec
    labels: tuple[Label, ...]
    pathways: tuple[PromptPathway, ...]
    input: Tensor
    output: Tensor
    graphs: tuple[Graph, ...]
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
        _check_files(self)

    @property
    def model(self) -> Graph:
        """The first graph, `model.onnx`."""
        return self.graphs[0]


def _check_files(m: Manifest) -> None:
    """Refuse graphs and engines that do not fit each other or the list of files."""
    listed = [f.path for f in m.files]
    if len(set(listed)) != len(listed) or MANIFEST_FILE in listed:
        raise ValueError("`files` names a file twice, or the manifest itself")
    graphs = {g.file: g for g in m.graphs}
    if not m.graphs or m.graphs[0].file != MODEL_FILE:
        raise ValueError(f"the first graph is not {MODEL_FILE}")
    if len(graphs) != len(m.graphs):
        raise ValueError("`graphs` names a file twice")
    for g in m.graphs:
        if g.file != graph_file(g.precision, g.batch):
            raise ValueError(f"a graph of {g.precision}, batch {g.batch} is named {g.file!r}")
    for file in (*graphs, *(e.file for e in m.engines)):
        if file not in listed:
            raise ValueError(f"{file!r} is not among the files")
    _check_engines(m, graphs)


def _check_engines(m: Manifest, graphs: dict[str, Graph]) -> None:
    """Refuse engines and parity rows that name no graph of the bundle, or one that does not fit."""
    for e in m.engines:
        if e.graph not in graphs:
            raise ValueError(f"the graph of the {e.backend} engine, {e.graph!r}, is not among the graphs")
        if graphs[e.graph].batch != e.batch:
            raise ValueError(f"the {e.backend} engine has batch {e.batch}, its graph {graphs[e.graph].batch}")
        if (e.file == e.graph) != (e.backend in GRAPH_BACKENDS):
            raise ValueError(f"{e.file!r} is not what a {e.backend} engine loads")
    for row in m.parity:
        if row.graph and row.graph not in graphs:
            raise ValueError(f"the graph of parity row {row.stage!r}, {row.graph!r}, is not among the graphs")


def graph_file(precision: Precision, batch: int = 1) -> str:
    """Return the name of a graph's ONNX file: `model.onnx`, `model.fp16.onnx`, `model.fp32.b4.onnx`."""
    if precision == "fp32" and batch == 1:
        return MODEL_FILE
    return f"model.{precision}.onnx" if batch == 1 else f"model.{precision}.b{batch}.onnx"


def engine_file(backend: Backend, version: str, device: str, precision: Precision, batch: int = 1) -> str:
    """Return a compiled engine's path in its bundle, such as `engines/trt-rtx-1.7.0-sm_80+-fp16.engine`."""
    suffix = "" if batch == 1 else f"-b{batch}"
    return f"engines/{backend}-{version}-{device}-{precision}{suffix}.engine"


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


class _Head(msgspec.Struct):
    """The two fields that say whether the rest can be understood."""

    schema: str = ""
    schema_version: int = 0


def decode(data: bytes, *, source: str) -> Manifest:
    """Read a manifest strictly; one of an older schema is upgraded.

    Args:
        data: JSON bytes.
        source: Where they came from, for messages.

    Raises:
        BundleError: Not JSON, another schema, a newer version, an unknown, missing or wrong field.
    """
    try:
        head = msgspec.json.decode(data, type=_Head)
    except msgspec.DecodeError as error:
        raise BundleError(
            f"{source} is not a bundle manifest", received=str(error), fix="Export the bundle again."
        ) from error
    if head.schema != SCHEMA or not 1 <= head.schema_version <= SCHEMA_VERSION:
        newer = head.schema == SCHEMA and head.schema_version > SCHEMA_VERSION
        raise BundleError(
            f"{source} has another schema",
            received=f"{head.schema!r} version {head.schema_version}",
            expected=f"{SCHEMA!r} version 1 to {SCHEMA_VERSION}",
            fix="A newer gcis wrote it: install that." if newer else "Export the checkpoint again.",
        )
    try:
        if head.schema_version == SCHEMA_VERSION:
            return msgspec.json.decode(data, type=Manifest)
        return msgspec.convert(upgrade(msgspec.json.decode(data)), type=Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(
            f"{source} does not follow the schema", received=str(error), fix="Export the bundle again."
        ) from error
