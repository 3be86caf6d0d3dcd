"""Export a checkpoint as a verified bundle: resolve prompts, write graphs, compare them, build engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from gcis_export.bundle.contract import described
from gcis_export.bundle.draft import Content, draft_manifest
from gcis_export.bundle.labels import make_labels, with_rules
from gcis_export.bundle.settings import choose_settings
from gcis_export.bundle.staged import StagedBundle
from gcis_export.bundle.writer import staged, write_graph
from gcis_export.engines.compare import compare_engines
from gcis_export.engines.compiled import build_engines
from gcis_export.engines.registry import check_engines
from gcis_export.gate.check_windows import calibration_windows, gather_windows
from gcis_export.gate.parity import Gate, References, check_networks, check_rounding
from gcis_export.gate.similar import describe_similar, similar_logits
from gcis_export.graph.network import ExportNet
from gcis_export.graph.write import round_weights, stored_as, to_onnx
from gcis_export.options import ExportRequest
from gcis_export.precision.variants import add_graph, convert
from gcis_export.resolve import Resolution, resolve
from gcis_export.targets.formats import check_targets, target_notes, write_targets
from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.bundles.store import SUFFIX, slugify, store_folder
from gcis_train.text.resolve import TextOptions
from gcis_train.weights import checkpoint as checkpoints

OnStep = Callable[[str], None]
"""Called with a line of text at the start of each step."""


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A bundle that was written.

    Attributes:
        folder: Bundle folder.
        manifest: Manifest of the bundle.
        sha256: SHA-256 of `manifest.json`, which identifies the bundle.
        coinciding: Groups of prompts with equal pathways, whose masks are therefore equal.
        nodes: Number of operators in `model.onnx`.
        windows: Source of the windows of the parity gate, as text.
        notes: Notes on assumed or overridden settings, and on engines that were not checked.
        targets: Other folders that were written: Triton models, MONAI bundle.
    """

    folder: Path
    manifest: Manifest
    sha256: str
    coinciding: tuple[tuple[str, ...], ...]
    nodes: int
    windows: str
    notes: tuple[str, ...]
    targets: tuple[Path, ...] = ()


def export(request: ExportRequest, *, on_step: OnStep | None = None) -> ExportResult:
    """Export a checkpoint as a verified bundle.

    Args:
        request: What to export, and how.
        on_step: Called with a line of text at the start of each step.

    Raises:
        CheckpointError: The checkpoint or its settings cannot be used.
        PromptError: A prompt or path selection cannot be used.
        EngineError: An engine is not available.
        ImageError: A CT file cannot be read.
        ParityError: A graph or engine differs from the network; no bundle was written.
        OutputError: The bundle, the Triton repository or the MONAI bundle cannot be written.
    """
    log = on_step or _ignore
    check_targets(request)
    engines = check_engines(request.engines, precision=request.precision, options=request.build_options)
    log("reading the checkpoint")
    content = _read_content(request)
    target = request.output or store_folder() / f"{slugify(content.name)}{SUFFIX}"
    windows, source = gather_windows(
        request.cases or request.calibration,
        spec=content.settings.preprocess,
        window=content.settings.window,
        each=request.windows_per_case,
    )
    with staged(target) as folder:
        draft, model, references = _write_model(request, content, folder, Gate(windows), log)
        draft = _add_graphs(request, content, draft, model=model, references=references, log=log)
        draft.write()
        log(f"comparing {' and '.join(engines)}")
        passed, engine_notes = compare_engines(
            folder, draft.gate, engines, references=references, precision=request.precision
        )
        built, build_notes = build_engines(
            draft.with_graph_engines(passed),
            engines,
            precision=request.precision,
            options=request.build_options,
            reference=references.network,
            on_step=log,
        )
        final = built.with_parity()
        digest = final.write()
    notes = (*content.settings.notes, *(final.manifest.notes or ()), *target_notes(request))
    return ExportResult(
        folder=target,
        manifest=final.manifest,
        sha256=digest,
        coinciding=tuple(tuple(group) for group in content.resolution.coinciding),
        nodes=final.manifest.model.nodes,
        windows=source,
        notes=(*notes, *final.gate.remarks(), *engine_notes, *build_notes),
        targets=write_targets(request, target, log),
    )


def _read_content(request: ExportRequest) -> Content:
    """Read the checkpoint, and choose settings, pathways, labels and name."""
    checkpoint = checkpoints.load(request.checkpoint)
    settings = choose_settings(checkpoint.config, request.overrides)
    resolution = resolve(
        checkpoint,
        request.prompts,
        path_selections=request.path_selections,
        text=TextOptions(
            clip_weights=request.clip_weights, any_clip=request.any_clip, untrained=request.untrained
        ),
    )
    prompts = [choice.prompt for choice in resolution.choices]
    labels = with_rules(make_labels(prompts, request.label_values), request.post)
    name = request.name or (request.output.stem if request.output else _default_name(resolution))
    return Content(name=name, checkpoint=checkpoint, resolution=resolution, settings=settings, labels=labels)


def _write_model(
    request: ExportRequest, content: Content, folder: Path, gate: Gate, log: OnStep
) -> tuple[StagedBundle, onnx.ModelProto, References]:
    """Compare the networks in PyTorch and write `model.onnx`.

    Returns:
        The staged bundle, the graph with float32 weights, and the references for graphs and engines.
    """
    log("comparing the networks in PyTorch")
    export_model = ExportNet(content.resolution.network, content.settings.window.patch_size)
    network = exact = check_networks(gate, content.resolution, export_model)
    if request.weights == "fp16":
        round_weights(export_model)
        exact = check_rounding(gate, export_model, network)
    log("writing the graph")
    model = to_onnx(export_model)
    graph, entry = write_graph(
        folder,
        described(stored_as(model, request.weights), content),
        weights_dtype="float16" if request.weights == "fp16" else "float32",
    )
    names = [choice.prompt for choice in content.resolution.choices]
    alike = describe_similar(similar_logits(gate.windows, network.answers, names))
    manifest = draft_manifest(
        content, graph, entry, (*content.checkpoint.notes, *content.resolution.notes, *alike)
    )
    bundle = StagedBundle(folder=folder, manifest=manifest, gate=gate)
    return bundle, model, References(network=network, exact=exact)


def _add_graphs(
    request: ExportRequest,
    content: Content,
    bundle: StagedBundle,
    *,
    model: onnx.ModelProto,
    references: References,
    log: OnStep,
) -> StagedBundle:
    """Write and compare the graphs of the other precision and batch sizes; return the bundle with them."""
    precision, window = request.precision, bundle.manifest.window
    float32 = precision == "fp32"
    sharing = request.weights == "fp16" and precision in ("fp32", "fp16")
    calibration = (
        calibration_windows(request.calibration, spec=bundle.manifest.preprocess, window=window)
        if precision == "int8"
        else []
    )
    for batch in sorted({1, *request.batches}):
        if float32 and batch == 1:
            continue  # `model.onnx`
        log(f"writing the {precision} graph" + (f" of batch size {batch}" if batch > 1 else ""))
        source = model
        if batch > 1:
            export_model = ExportNet(content.resolution.network, window.patch_size, batch)
            if request.weights == "fp16":
                round_weights(export_model)
            source = to_onnx(export_model)
        converted = convert(source, precision, calibration=calibration, sharing=sharing)
        graph, entry = add_graph(
            bundle.folder,
            described(stored_as(converted, request.weights) if float32 else converted, content),
            precision,
            gate=bundle.gate,
            reference=references.exact if float32 else references.network,
            weights_dtype=bundle.manifest.model.weights_dtype if float32 else None,
            batch=batch,
            sharing=sharing,
        )
        bundle = bundle.with_graph(graph, entry)
    return bundle


def _default_name(resolution: Resolution) -> str:
    """Return a bundle name made from the prompts."""
    first, *others = [choice.prompt for choice in resolution.choices]
    return f"{first} and {len(others)} more" if others else first


def _ignore(_step: str) -> None:
    """Ignore a step."""
