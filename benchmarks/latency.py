"""Latency: every engine and precision of a bundle that runs here, beside how exact it is."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.ceiling import SIZE, write_product
from benchmarks.engine_run import Run, in_own_process
from benchmarks.environment import environment
from benchmarks.ladder_rows import mean_dice
from benchmarks.ladder_ways import Way
from benchmarks.latency_record import LatencyRecord, Missing, Reference, Row, Subject
from benchmarks.latency_rows import Candidate, Judge, Labels, row_of
from benchmarks.material import Network, write_bundle
from benchmarks.prompts import multiplications
from benchmarks.recover import recovered, save_static
from gcis_runtime.bundles.bundle import Bundle, open_bundle
from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.engines.gpu.probe import probe_driver
from gcis_runtime.errors import BundleError, GcisError
from gcis_runtime.images.nifti import read_volume
from gcis_runtime.images.volume import Volume
from gcis_runtime.runs.phantom import write_phantom
from gcis_runtime.sliding.labeller import DEFAULT_RESTORE
from gcis_runtime.system.cpus import usable_cpus
from gcis_train.nets.network import StaticGcisNet

Say = Callable[[str], None]
_NOTE = (
    "Stages are those of gcis-run's code, p50 and p90 over all timed runs; engines take turns, each in a "
    "process of its own. start: from launch to an open engine; first result: from launch to the first label "
    "map. GFLOP/s counts two operations for each multiplication of the float32 graph's convolutions and "
    "matrix products. Labels are compared with PyTorch float32 and MONAI on the file's grid."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Attributes:
        rounds: Processes of each engine, in turns; the second and later ones find what the first kept.
        warmup: Runs of each process before the timed ones, at least 1.
        repeats: Timed runs of each process.
        int8: Make an int8 graph from the bundle's weights where no bundle has one.
        calibration: Windows of each of two phantoms that this graph takes its ranges from.
        seed: Phantom that is segmented where no image is given.
        product: Rows of the matrix product that gives the ceiling.
    """

    rounds: int = 2
    warmup: int = 1
    repeats: int = 5
    int8: bool = True
    calibration: int = 4
    seed: int = 7
    product: int = SIZE


def measure(bundles: Sequence[str], image: Path | None, settings: Settings, *, say: Say) -> LatencyRecord:
    """Measure every engine on one volume.

    Args:
        bundles: Bundles of the same network; the first gives the reference's weights.
        image: CT file; None generates a phantom, whose true labels are known.
        settings: How to measure.
        say: Told of each step.

    Raises:
        BundleError: A bundle cannot be used, or they do not name the same structures.
        GcisError: The image cannot be used, or no engine ran.
    """
    where = environment()
    opened = [open_bundle(find_bundle(name)) for name in bundles]
    _check_same(opened)
    first = opened[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        truth = None
        if image is None:
            image, truth_file = write_phantom(settings.seed, folder)
            truth = read_volume(truth_file).array
        volume = read_volume(image)
        say("the reference: PyTorch in float32")
        net = recovered(first)
        reference, expected = _reference(net, first, image, folder, truth)
        if settings.int8 and not any(g.precision == "int8" for b in opened for g in b.manifest.graphs):
            say("writing an int8 graph")
            opened.append(_with_int8(net, first.manifest, folder / "int8.gcis", settings.calibration))
        giga = round(multiplications(onnx.load(str(first.model_file))) / 1e9, 3)
        judge = Judge(expected=expected, truth=truth, giga=giga)
        rows, missing = _rows(candidates(opened), image, folder, settings, judge=judge, say=say)
    if not rows:
        raise GcisError("no engine ran", received="; ".join(f"{m.name}: {m.reason}" for m in missing))
    return LatencyRecord(
        environment=where,
        subject=_subject(
            first, volume, giga, f"phantom {settings.seed}" if truth is not None else "a CT file"
        ),
        rounds=settings.rounds,
        warmup=settings.warmup,
        repeats=settings.repeats,
        reference=reference,
        rows=tuple(rows),
        missing=tuple(missing),
        note=_NOTE,
    )


def _with_int8(net: StaticGcisNet, manifest: Manifest, folder: Path, calibration: int) -> Bundle:
    """Write a network as a bundle that has an int8 graph, and open it."""
    prompts = tuple(label.prompt for label in manifest.labels)
    network = Network(net=net, prompts=prompts, preprocess=manifest.preprocess, window=manifest.window)
    write_bundle(network, folder, calibration=calibration)
    return open_bundle(folder)


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


def candidates(bundles: Sequence[Bundle]) -> list[Candidate]:
    """Return every engine and precision that the bundles have a graph for, from the first that has it."""
    found: dict[tuple[str, str, str], Candidate] = {}
    on_gpu = bool(probe_driver().gpus)
    for bundle in bundles:
        manifest = bundle.manifest
        precisions = {graph.precision for graph in manifest.graphs}
        keys: list[tuple[str, str, str]]
        keys = [("onnx", "fp32", "cpu")]  # its CPU provider computes other graphs in float32
        keys += [("openvino", p, "cpu") for p in ("fp32", "bf16", "int8") if p != "int8" or p in precisions]
        keys += [("onnx", p, "cuda") for p in ("fp16", "fp32") if on_gpu and p in precisions]
        keys += [(e.backend, e.precision, "cuda") for e in manifest.engines if e.backend.startswith("trt")]
        for engine, precision, device in keys:
            candidate = Candidate(engine=engine, precision=precision, device=device, bundle=bundle)
            found.setdefault((engine, precision, device), candidate)
    return list(found.values())


def _check_same(bundles: Sequence[Bundle]) -> None:
    """Refuse bundles whose label maps would not mean the same."""
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


def _reference(
    net: StaticGcisNet, bundle: Bundle, image: Path, folder: Path, truth: Labels | None
) -> tuple[Reference, Labels]:
    """Run PyTorch and MONAI in a process of their own; return what it took and the labels."""
    save_static(net, bundle, folder / "static")
    way = Way(
        name="static",
        checkpoint=str(folder / "static"),
        image=str(image),
        out=str(folder / "reference.nii.gz"),
        restore=DEFAULT_RESTORE,
        threads=usable_cpus(),
    )
    found = in_own_process("ladder-way", way, home=folder)
    channels = read_volume(folder / "reference.nii.gz").array.astype(np.intp)
    values = np.array([0, *(label.value for label in bundle.manifest.labels)])
    labels: Labels = values[channels]
    reference = Reference(
        whole_seconds=found["whole_seconds"],
        network_seconds=found["network_seconds"],
        peak_memory_mb=found["peak_memory_mb"],
        dice_truth=None if truth is None else mean_dice(labels, truth),
    )
    return reference, labels


def _rows(
    found: Sequence[Candidate], image: Path, folder: Path, settings: Settings, *, judge: Judge, say: Say
) -> tuple[list[Row], list[Missing]]:
    """Run the candidates in turns."""
    products = write_product(folder, settings.product)
    turns: dict[str, list[dict[str, Any]]] = {c.name: [] for c in found}
    failed: dict[str, str] = {}
    for number in range(settings.rounds):
        for c in found:
            if c.name in failed:
                continue
            home = folder / c.name.replace(" ", "_")
            product = products.get(c.precision) if c.device == "cpu" else None  # type: ignore[call-overload]
            run = Run(
                bundle=str(c.bundle.folder),
                image=str(image),
                out=str(folder / f"{c.name}.nii.gz"),
                engine=c.engine,
                precision=c.precision,
                device=c.device,
                threads=usable_cpus(),
                warmup=settings.warmup,
                repeats=settings.repeats,
                product=str(product) if product else None,
            )
            try:
                turns[c.name].append(in_own_process("engine-run", run, home=home))
            except GcisError as error:
                failed[c.name] = str(error)
                continue
            seconds = turns[c.name][-1]["first_result_seconds"]
            say(f"round {number + 1}: {c.name}: {seconds:.1f} s to the first result")
    rows = [
        row_of(c, turns[c.name], read_volume(folder / f"{c.name}.nii.gz").array, judge)
        for c in found
        if c.name not in failed
    ]
    return rows, [Missing(name=name, reason=reason) for name, reason in failed.items()]
