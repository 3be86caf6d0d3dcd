"""From a checkpoint to a verified bundle: resolve, cut, write, compare, and only then publish."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import onnx

from gcis_export.bundle_writer import NOTICE, staged, write_graph, write_manifest
from gcis_export.check_windows import gather_windows
from gcis_export.engines import Reference, check_engines, compare_engines
from gcis_export.graph.network import ExportNet
from gcis_export.graph.write import INPUT, OUTPUT, WeightsType, round_weights, to_onnx
from gcis_export.parity import ROUNDED, STATIC, Gate, check_networks, check_rounding
from gcis_export.resolve import Resolution, resolve
from gcis_export.settings import Overrides, Settings, choose_settings
from gcis_export.structures import make_labels
from gcis_runtime.manifest import (
    MODEL_FILE,
    Engine,
    FileEntry,
    Graph,
    Label,
    Manifest,
    PromptPathway,
    Provenance,
    Tensor,
)
from gcis_runtime.store import SUFFIX, slugify, store_folder
from gcis_train import checkpoint as checkpoints
from gcis_train.checkpoint import Checkpoint

Say = Callable[[str], None]
"""Told of each step as it begins."""

_VERSIONED = ("gcis", "torch", "monai", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "openvino")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to export.

    Attributes:
        checkpoint: Checkpoint or run folder.
        prompts: Structures in channel order; none means all that the checkpoint names.
        path_selections: Pathways by hand, one for each prompt.
        clip_weights: CLIP weights for prompts that the checkpoint lacks.
        engines: Engines to check beside ONNX Runtime.
        precision: `"fp32"`, or `"bf16"` to make OpenVINO's bf16 a must.
        weights: How weights are stored.
        overrides: Window and pre-processing where they differ from the checkpoint's.
        label_values: Values in the label map; none means 1, 2, 3, …
        cases: CT files for the parity gate; none means a phantom.
        windows_per_case: Windows of each case that the parity gate looks at.
        name: The bundle's name; None makes one from the prompts.
        output: The bundle's folder; None installs it into the bundle store.
    """

    checkpoint: Path
    prompts: tuple[str, ...] = ()
    path_selections: tuple[str, ...] = ()
    clip_weights: str | None = None
    engines: tuple[str, ...] = ("onnx",)
    precision: str = "fp32"
    weights: WeightsType = "fp32"
    overrides: Overrides = field(default_factory=Overrides)
    label_values: tuple[int, ...] = ()
    cases: tuple[Path, ...] = ()
    windows_per_case: int = 2
    name: str | None = None
    output: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A bundle that was written.

    Attributes:
        folder: Where it lies.
        manifest: What it says.
        sha256: Hash of its manifest.
        coinciding: Groups of prompts with the same pathway: they give the same mask.
        nodes: Operators in the graph.
        windows: Where the parity gate's windows come from.
        notes: What was assumed, overridden or left out.
    """

    folder: Path
    manifest: Manifest
    sha256: str
    coinciding: tuple[tuple[str, ...], ...]
    nodes: int
    windows: str
    notes: tuple[str, ...]


def export(request: Request, *, say: Say | None = None) -> Exported:
    """Export a checkpoint as a verified bundle.

    Args:
        request: What to export.
        say: Told of each step.

    Raises:
        CheckpointError: The checkpoint or its settings cannot be used.
        PromptError: A prompt or path selection cannot be used.
        EngineError: An engine is not available.
        ImageError: A check case cannot be read.
        ParityError: A graph does not give the network's answers; nothing was written.
        OutputError: The bundle cannot be written.
    """
    tell = say or _silent
    engines = check_engines(request.engines, precision=request.precision)
    tell("reading the checkpoint")
    checkpoint = checkpoints.load(request.checkpoint)
    settings = choose_settings(checkpoint.config, request.overrides)
    resolution = resolve(
        checkpoint,
        request.prompts,
        path_selections=request.path_selections,
        clip_weights=request.clip_weights,
    )
    labels = make_labels([choice.prompt for choice in resolution.choices], request.label_values)
    name = request.name or (request.output.stem if request.output else _name(resolution))
    target = request.output or store_folder() / f"{slugify(name)}{SUFFIX}"
    windows, source = gather_windows(
        request.cases, spec=settings.preprocess, window=settings.window, each=request.windows_per_case
    )
    with staged(target) as folder:
        gate = Gate(windows)
        tell("comparing the networks in PyTorch")
        exact, network, model = _make_graph(resolution, settings, gate, request.weights, tell)
        graph, entry = write_graph(
            folder, model, weights_dtype="float16" if request.weights == "fp16" else "float32"
        )
        draft = _manifest(checkpoint, resolution, settings, labels, name=name, graph=graph, entry=entry)
        write_manifest(folder, draft)
        tell(f"comparing {' and '.join(engines)}")
        passed, remarks = compare_engines(
            folder, gate, engines, exact=exact, network=network, precision=request.precision
        )
        manifest = msgspec.structs.replace(draft, engines=passed, parity=tuple(gate.rows))
        digest = write_manifest(folder, manifest)
    return Exported(
        folder=target,
        manifest=manifest,
        sha256=digest,
        coinciding=tuple(tuple(group) for group in resolution.coinciding),
        nodes=len(model.graph.node),
        windows=source,
        notes=(*settings.notes, *gate.remarks(), *remarks),
    )


def _make_graph(
    resolution: Resolution, settings: Settings, gate: Gate, weights: WeightsType, tell: Say
) -> tuple[Reference, Reference, onnx.ModelProto]:
    """Build the twin, compare it, write it; return what engines must equal, the network, and the graph."""
    twin = ExportNet(resolution.network, settings.window.roi)
    network = Reference(name=STATIC, answers=check_networks(gate, resolution, twin))
    exact = network
    if weights == "fp16":
        round_weights(twin)
        exact = Reference(name=ROUNDED, answers=check_rounding(gate, twin, network.answers))
    tell("writing the graph")
    return exact, network, to_onnx(twin, weights=weights)


def _manifest(
    checkpoint: Checkpoint,
    resolution: Resolution,
    settings: Settings,
    labels: tuple[Label, ...],
    *,
    name: str,
    graph: Graph,
    entry: FileEntry,
) -> Manifest:
    """Return the manifest without parity report; it lists ONNX Runtime alone until the others passed."""
    config, choices, roi = checkpoint.config, resolution.choices, settings.window.roi
    draft_engine = Engine(
        backend="onnx", precision="fp32", file=MODEL_FILE, graph=MODEL_FILE, backend_version="", device="cpu"
    )
    return Manifest(
        name=name,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        notice=NOTICE,
        preprocess=settings.preprocess,
        window=settings.window,
        labels=labels,
        pathways=tuple(
            PromptPathway(prompt=c.prompt, path_selection=c.pathway.one_based, margins=c.margins)
            for c in choices
        ),
        input=Tensor(name=INPUT, shape=(1, 1, *roi)),
        output=Tensor(name=OUTPUT, shape=(1, len(choices), *roi)),
        graphs=(graph,),
        engines=(draft_engine,),
        files=(entry,),
        parity=(),
        provenance=Provenance(
            checkpoint_sha256=checkpoint.sha256,
            text_model=config.text_model,
            text_weights=config.text_weights,
            training=config.provenance,
        ),
        versions=_versions(_VERSIONED),
    )


def _versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _name(resolution: Resolution) -> str:
    """Make a bundle's name from its prompts."""
    first, *others = [choice.prompt for choice in resolution.choices]
    return f"{first} and {len(others)} more" if others else first


def _silent(_step: str) -> None:
    """Say nothing."""
