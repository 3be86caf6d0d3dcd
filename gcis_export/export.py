"""From a checkpoint to a verified bundle: resolve, cut, write, compare, and only then publish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import onnx

from gcis_export.bundle_writer import staged, write_graph, write_manifest
from gcis_export.check_windows import calibration_windows, gather_windows
from gcis_export.draft import draft_manifest
from gcis_export.engines.compare import Reference, compare_engines
from gcis_export.engines.compiled import build_engines
from gcis_export.engines.options import EngineOptions
from gcis_export.engines.select import check_engines
from gcis_export.graph.network import ExportNet
from gcis_export.graph.write import WeightsType, round_weights, stored_as, to_onnx
from gcis_export.parity import ROUNDED, STATIC, Gate, check_networks, check_rounding
from gcis_export.precision.extra import add_graph, convert
from gcis_export.resolve import Resolution, resolve
from gcis_export.settings import Overrides, Settings, choose_settings
from gcis_export.structures import make_labels
from gcis_export.targets.monai_bundle import METADATA, check_monai_target, write_monai_bundle
from gcis_export.targets.triton import CONFIG_FILE, write_triton
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import Manifest, Precision
from gcis_runtime.bundles.store import SUFFIX, slugify, store_folder
from gcis_runtime.system.atomic_files import check_writable
from gcis_train.weights import checkpoint as checkpoints

Say = Callable[[str], None]
"""Told of each step as it begins."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to export.

    Attributes:
        checkpoint: Checkpoint or run folder.
        prompts: Structures in channel order; none means all that the checkpoint names.
        path_selections: Pathways by hand, one for each prompt.
        clip_weights: CLIP weights for prompts that the checkpoint lacks.
        engines: Engines to make and check beside ONNX Runtime.
        engine_options: How compiled engines are built.
        precision: `"fp32"`, or the precision of a second graph beside `model.onnx`, which one of the engines
            that were asked for has to compute in.
        batches: Batches beside 1, each a graph of that precision.
        weights: How weights are stored.
        overrides: Window and pre-processing where they differ from the checkpoint's.
        label_values: Values in the label map; none means 1, 2, 3, …
        cases: CT files for the parity gate; none means those of `calibration`, or a phantom.
        calibration: CT files whose windows calibrate INT8; none means a phantom.
        windows_per_case: Windows of each case that the parity gate looks at.
        name: The bundle's name; None makes one from the prompts.
        output: The bundle's folder; None installs it into the bundle store.
        triton: A Triton model repository to add the bundle to.
        monai_bundle: A folder to write it to as a MONAI bundle.
    """

    checkpoint: Path
    prompts: tuple[str, ...] = ()
    path_selections: tuple[str, ...] = ()
    clip_weights: str | None = None
    engines: tuple[str, ...] = ("onnx",)
    engine_options: EngineOptions = field(default_factory=EngineOptions)
    precision: Precision = "fp32"
    batches: tuple[int, ...] = ()
    weights: WeightsType = "fp32"
    overrides: Overrides = field(default_factory=Overrides)
    label_values: tuple[int, ...] = ()
    cases: tuple[Path, ...] = ()
    calibration: tuple[Path, ...] = ()
    windows_per_case: int = 2
    name: str | None = None
    output: Path | None = None
    triton: Path | None = None
    monai_bundle: Path | None = None


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
        onward: Folders that it was also written to: models of a Triton repository, a MONAI bundle.
    """

    folder: Path
    manifest: Manifest
    sha256: str
    coinciding: tuple[tuple[str, ...], ...]
    nodes: int
    windows: str
    notes: tuple[str, ...]
    onward: tuple[Path, ...] = ()


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
        OutputError: The bundle, the Triton repository or the MONAI bundle cannot be written.
    """
    tell = say or _silent
    _check_onward(request)
    engines = check_engines(request.engines, precision=request.precision, options=request.engine_options)
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
        request.cases or request.calibration,
        spec=settings.preprocess,
        window=settings.window,
        each=request.windows_per_case,
    )
    with staged(target) as folder:
        gate = Gate(windows)
        tell("comparing the networks in PyTorch")
        exact, network, model = _make_graph(resolution, settings, gate, request.weights, tell)
        graph, entry = write_graph(
            folder,
            stored_as(model, request.weights),
            weights_dtype="float16" if request.weights == "fp16" else "float32",
        )
        draft = draft_manifest(checkpoint, resolution, settings, labels, name=name, graph=graph, entry=entry)
        reference = exact if request.precision == "fp32" else network
        draft = _add_graphs(
            draft, folder, resolution, model, request, gate=gate, reference=reference, tell=tell
        )
        write_manifest(folder, draft)
        tell(f"comparing {' and '.join(engines)}")
        passed, remarks = compare_engines(
            folder, gate, engines, exact=exact, network=network, precision=request.precision
        )
        built, unrun = build_engines(
            folder,
            msgspec.structs.replace(draft, engines=passed),
            gate,
            engines,
            precision=request.precision,
            options=request.engine_options,
            reference=network.name,
            expected=network.answers,
            say=tell,
        )
        manifest = msgspec.structs.replace(built, parity=tuple(gate.rows))
        digest = write_manifest(folder, manifest)
    onward = _write_onward(request, target, tell)
    return Exported(
        folder=target,
        manifest=manifest,
        sha256=digest,
        coinciding=tuple(tuple(group) for group in resolution.coinciding),
        nodes=graph.nodes,
        windows=source,
        notes=(*settings.notes, *gate.remarks(), *remarks, *unrun),
        onward=onward,
    )


def _add_graphs(
    draft: Manifest,
    folder: Path,
    resolution: Resolution,
    model: onnx.ModelProto,
    request: Request,
    *,
    gate: Gate,
    reference: Reference,
    tell: Say,
) -> Manifest:
    """Write and compare the graphs of another precision and of batches; return the manifest with them."""
    precision = request.precision
    windows = (
        calibration_windows(request.calibration, spec=draft.preprocess, window=draft.window)
        if precision == "int8"
        else []
    )
    for batch in sorted({1, *request.batches}):
        if (precision, batch) == ("fp32", 1):
            continue
        tell(f"writing the {precision} graph" + (f" of batch {batch}" if batch > 1 else ""))
        source = model
        if batch > 1:
            export_model = ExportNet(resolution.network, draft.window.patch_size, batch)
            if request.weights == "fp16":
                round_weights(export_model)
            source = to_onnx(export_model)
        converted = convert(source, precision, calibration=windows)
        graph, entry = add_graph(
            folder,
            stored_as(converted, request.weights) if precision == "fp32" else converted,
            precision,
            gate=gate,
            reference=reference.name,
            expected=reference.answers,
            weights_dtype=draft.model.weights_dtype if precision == "fp32" else None,
            batch=batch,
        )
        draft = msgspec.structs.replace(draft, graphs=(*draft.graphs, graph), files=(*draft.files, entry))
    return draft


def _check_onward(request: Request) -> None:
    """Refuse before any work what could not be written after it."""
    if request.triton is not None:
        check_writable(request.triton / CONFIG_FILE)
    if request.monai_bundle is not None:
        check_monai_target(request.monai_bundle)
        check_writable(request.monai_bundle / METADATA)


def _write_onward(request: Request, target: Path, tell: Say) -> tuple[Path, ...]:
    """Write the finished bundle in the other formats that were asked for."""
    folders: list[Path] = []
    if request.triton is not None:
        tell("adding to the Triton model repository")
        folders += [model.folder for model in write_triton(open_bundle(target), request.triton)]
    if request.monai_bundle is not None:
        tell("writing the MONAI bundle")
        folders.append(write_monai_bundle(open_bundle(target), request.monai_bundle))
    return tuple(folders)


def _make_graph(
    resolution: Resolution, settings: Settings, gate: Gate, weights: WeightsType, tell: Say
) -> tuple[Reference, Reference, onnx.ModelProto]:
    """Build and compare the export model; return the reference for engines, the network and the graph."""
    export_model = ExportNet(resolution.network, settings.window.patch_size)
    network = Reference(name=STATIC, answers=check_networks(gate, resolution, export_model))
    exact = network
    if weights == "fp16":
        round_weights(export_model)
        exact = Reference(name=ROUNDED, answers=check_rounding(gate, export_model, network.answers))
    tell("writing the graph")
    return exact, network, to_onnx(export_model)


def _name(resolution: Resolution) -> str:
    """Make a bundle's name from its prompts."""
    first, *others = [choice.prompt for choice in resolution.choices]
    return f"{first} and {len(others)} more" if others else first


def _silent(_step: str) -> None:
    """Say nothing."""
