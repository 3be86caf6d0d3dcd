"""Measure every engine and precision of a bundle on one CT, and compare their labels with a reference."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gcis_runtime.bundles.bundle import Bundle, open_bundle
from gcis_runtime.bundles.manifest import MODEL_FILE
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.engines.gpu.probe import probe_driver
from gcis_runtime.errors import BundleError, EngineError, GcisError
from gcis_runtime.images.files import read_volume
from gcis_runtime.images.volume import Volume
from gcis_runtime.latency.agreement import mean_dice
from gcis_runtime.latency.ceiling import SIZE, write_products
from gcis_runtime.latency.engine_run import COMMAND, Run
from gcis_runtime.latency.environment import environment
from gcis_runtime.latency.processes import run_process
from gcis_runtime.latency.record import LatencyRecord, Missing, Reference, Row, Subject
from gcis_runtime.latency.rows import Candidate, Expected, Labels, row_of
from gcis_runtime.latency.work import multiplications
from gcis_runtime.runs.phantom import write_phantom
from gcis_runtime.system.cpus import usable_cpus

OnStep = Callable[[str], None]
REFERENCE = "onnx fp32"
"""Engine whose labels the others are compared with unless another reference is given."""
_NOTE = (
    "Stages are those of gcis-run, median and 90th percentile over all timed runs; engines take turns, each "
    "in a separate process. start: from launch to an open engine; first result: from launch to the first "
    "label map. GFLOP/s counts two operations per multiplication in the convolutions and matrix products of "
    "the float32 graph. Labels are compared on the grid of the file with {reference}."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of processes and runs.

    Attributes:
        rounds: Processes per engine, in turns; from the second on, the engine's cache is filled.
        warmup: Warm-up runs of each process, at least 1.
        repeats: Timed runs of each process.
        seed: Phantom that is segmented if no image is given.
        product: Rows of the matrix product that gives the ceiling.
    """

    rounds: int = 2
    warmup: int = 1
    repeats: int = 5
    seed: int = 7
    product: int = SIZE


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """Image, bundles and working folder of a measurement.

    Attributes:
        bundles: Bundles of one network.
        image: CT file.
        truth: True label map of a phantom, (X, Y, Z); None for a CT file.
        folder: Folder for temporary files.
    """

    bundles: tuple[Bundle, ...]
    image: Path
    truth: Labels | None
    folder: Path


Given = tuple[Reference, Labels, tuple[Bundle, ...]]
"""A reference, its label map (X, Y, Z), and further bundles to measure."""
Turns = dict[str, list[dict[str, Any]]]
"""Measurements of each process by name of the candidate."""


def measure(
    bundles: Sequence[str],
    image: Path | None,
    settings: Settings,
    *,
    on_step: OnStep,
    reference: Callable[[Material], Given] | None = None,
) -> LatencyRecord:
    """Measure every engine on one volume.

    Args:
        bundles: Folders or names of bundles of one network.
        image: CT file; None generates a phantom, whose true labels are known.
        settings: Numbers of processes and runs.
        on_step: Called with one line of text per step.
        reference: Computes the labels to compare with; None takes those of ONNX Runtime in float32.

    Raises:
        BundleError: A bundle cannot be used, or the bundles do not have the same structures.
        EngineError: No engine ran, or the reference did not.
        ImageError: The image cannot be read.
    """
    where = environment()
    opened = tuple(open_bundle(find_bundle(name)) for name in bundles)
    _check_same_structures(opened)
    with tempfile.TemporaryDirectory() as temporary:
        folder, truth = Path(temporary), None
        if image is None:
            image, truth_file = write_phantom(settings.seed, folder)
            truth = read_volume(truth_file).array
        volume = read_volume(image)
        material = Material(bundles=opened, image=image, truth=truth, folder=folder)
        given = None if reference is None else reference(material)
        chosen = candidates([*opened, *(given[2] if given else ())])
        turns, failed = _run_in_turns(chosen, material, settings, on_step)
        labels = {name: read_volume(_out(folder, name)).array for name in turns}
        found, expected = given[:2] if given else _first_engine(turns, failed, labels, truth)
        giga = round(multiplications(opened[0].graph(MODEL_FILE)) / 1e9, 3)
        against = Expected(labels=expected, truth=truth, giga=giga)
        rows = [row_of(c, turns[c.name], labels[c.name], against) for c in chosen if c.name in turns]
    name = "a CT file" if truth is None else f"phantom {settings.seed}"
    return _record(
        where=where,
        settings=settings,
        subject=_subject(opened[0], volume, giga, name),
        reference=found,
        rows=rows,
        failed=failed,
    )


def candidates(bundles: Sequence[Bundle]) -> list[Candidate]:
    """Return every engine and precision with a graph, each from the first bundle that has it."""
    found: dict[tuple[str, str, str], Candidate] = {}
    on_gpu = bool(probe_driver().gpus)
    for bundle in bundles:
        manifest = bundle.manifest
        precisions = {graph.precision for graph in manifest.graphs}
        keys: list[tuple[str, str, str]]
        keys = [("onnx", "fp32", "cpu")]  # the CPU provider computes graphs of other precisions in float32
        keys += [("openvino", p, "cpu") for p in ("fp32", "bf16", "int8") if p != "int8" or p in precisions]
        keys += [("onnx", p, "cuda") for p in ("fp16", "fp32") if on_gpu and p in precisions]
        keys += [(e.backend, e.precision, "cuda") for e in manifest.engines if e.backend.startswith("trt")]
        for engine, precision, device in keys:
            candidate = Candidate(engine=engine, precision=precision, device=device, bundle=bundle)
            found.setdefault((engine, precision, device), candidate)
    return list(found.values())


def _check_same_structures(bundles: Sequence[Bundle]) -> None:
    """Raise BundleError unless the label values of all bundles name the same structures."""
    wanted = [(label.value, label.name) for label in bundles[0].manifest.labels]
    for bundle in bundles[1:]:
        found = [(label.value, label.name) for label in bundle.manifest.labels]
        if found != wanted:
            raise BundleError(
                "the bundles do not have the same structures",
                received=f"{bundle.name!r} with {', '.join(n for _, n in found)}",
                expected=", ".join(n for _, n in wanted),
                fix="Give bundles of one network, such as an export in another --precision.",
            )


def _run_in_turns(
    chosen: Sequence[Candidate], material: Material, settings: Settings, on_step: OnStep
) -> tuple[Turns, dict[str, str]]:
    """Run the candidates in turns; return their measurements, and the error of each candidate that failed."""
    products = write_products(material.folder, settings.product)
    turns: Turns = {c.name: [] for c in chosen}
    failed: dict[str, str] = {}
    for number in range(settings.rounds):
        for c in chosen:
            if c.name in failed:
                continue
            run = _run(c, material, settings, products.get(c.precision) if c.device == "cpu" else None)
            home = material.folder / c.name.replace(" ", "_")
            try:
                turns[c.name].append(run_process(COMMAND, run, home=home))
            except GcisError as error:
                failed[c.name] = str(error)
                continue
            seconds = turns[c.name][-1]["first_result_seconds"]
            on_step(f"round {number + 1}: {c.name}: first result after {seconds:.1f} s")
    finished = {name: done for name, done in turns.items() if name not in failed}
    if not finished:
        raise EngineError(
            "no engine ran",
            received="; ".join(f"{name}: {reason}" for name, reason in failed.items()),
            fix="Run gcis-bundle doctor to see which engines can run here.",
        )
    return finished, failed


def _run(candidate: Candidate, material: Material, settings: Settings, product: Path | None) -> Run:
    return Run(
        bundle=str(candidate.bundle.folder),
        image=str(material.image),
        out=str(_out(material.folder, candidate.name)),
        engine=candidate.engine,
        precision=candidate.precision,
        device=candidate.device,
        threads=usable_cpus(),
        warmup=settings.warmup,
        repeats=settings.repeats,
        product=str(product) if product else None,
    )


def _out(folder: Path, name: str) -> Path:
    """Return the label map of a candidate."""
    return folder / f"{name}.nii.gz"


def _first_engine(
    turns: Turns, failed: dict[str, str], labels: dict[str, Labels], truth: Labels | None
) -> tuple[Reference, Labels]:
    """Return ONNX Runtime in float32 as the reference, and its label map.

    Raises:
        EngineError: It did not run.
    """
    if REFERENCE not in turns:
        raise EngineError(
            f"{REFERENCE} did not run, although the labels of all engines are compared with its labels",
            received=failed[REFERENCE],
            fix="Run gcis-bundle verify on the bundle.",
        )
    first, found = turns[REFERENCE][0], labels[REFERENCE]
    reference = Reference(
        name=REFERENCE,
        whole_seconds=first["first_result_seconds"],
        network_seconds=first["first"]["network"],
        peak_memory_mb=first["peak_memory_mb"],
        dice_truth=None if truth is None else mean_dice(found, truth),
    )
    return reference, found.astype(np.intp)


def _subject(bundle: Bundle, volume: Volume, giga: float, image: str) -> Subject:
    manifest = bundle.manifest
    return Subject(
        image=image,
        voxels=volume.shape,
        spacing_mm=tuple(round(s, 3) for s in volume.spacing),  # type: ignore[arg-type]
        bundle=bundle.name,
        bundle_sha256=bundle.sha256,
        structures=len(manifest.labels),
        roi=manifest.window.patch_size,
        network_spacing_mm=manifest.preprocess.spacing,
        overlap=manifest.window.overlap,
        giga_multiplications_per_window=giga,
    )


def _record(
    *,
    where: dict[str, Any],
    settings: Settings,
    subject: Subject,
    reference: Reference,
    rows: list[Row],
    failed: dict[str, str],
) -> LatencyRecord:
    return LatencyRecord(
        environment=where,
        subject=subject,
        rounds=settings.rounds,
        warmup=settings.warmup,
        repeats=settings.repeats,
        reference=reference,
        rows=tuple(rows),
        missing=tuple(Missing(name=name, reason=reason) for name, reason in failed.items()),
        note=_NOTE.format(reference=reference.name),
    )
