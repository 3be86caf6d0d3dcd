"""Latency: every engine and precision of a bundle that runs here, beside how exact it is."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.ceiling import SIZE, write_product
from benchmarks.engine_run import STAGES, Run, in_own_process
from benchmarks.environment import environment
from benchmarks.ladder_rows import agreement, mean_dice
from benchmarks.ladder_ways import Way
from benchmarks.latency_record import LatencyRecord, Missing, Reference, Row, Spread, Subject
from benchmarks.material import Network, write_bundle
from benchmarks.prompts import multiplications
from benchmarks.recover import recovered, save_static
from gcis_runtime.bundle import Bundle, open_bundle
from gcis_runtime.cpus import usable_cpus
from gcis_runtime.cuda.probe import probe_driver
from gcis_runtime.errors import BundleError, GcisError
from gcis_runtime.labelling import DEFAULT_RESTORE
from gcis_runtime.nifti import read_volume
from gcis_runtime.runs import write_phantom
from gcis_runtime.store import find_bundle

Say = Callable[[str], None]
Labels = npt.NDArray[Any]
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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """An engine in a precision on a device, and the bundle that has its graph."""

    engine: str
    precision: str
    device: str
    bundle: Bundle

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.engine} {self.precision}" + (" on a GPU" if self.device != "cpu" else "")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """What a run is judged by.

    Attributes:
        expected: The reference's labels, (X, Y, Z).
        truth: True labels; None where they are not known.
        giga: 1e9 multiplications a window.
    """

    expected: Labels
    truth: Labels | None
    giga: float


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
            made = folder / "int8.gcis"
            m = first.manifest
            prompts = tuple(label.prompt for label in m.labels)
            network = Network(net=net, prompts=prompts, preprocess=m.preprocess, window=m.window)
            write_bundle(network, made, calibration=settings.calibration)
            opened.append(open_bundle(made))
        giga = round(multiplications(onnx.load(str(first.model_file))) / 1e9, 3)
        judge = Judge(expected=expected, truth=truth, giga=giga)
        rows, missing = _rows(candidates(opened), image, folder, settings, judge=judge, say=say)
    if not rows:
        raise GcisError("no engine ran", received="; ".join(f"{m.name}: {m.reason}" for m in missing))
    manifest = first.manifest
    return LatencyRecord(
        environment=where,
        subject=Subject(
            image=f"phantom {settings.seed}" if truth is not None else "a CT file",
            voxels=volume.shape,
            spacing_mm=tuple(round(s, 3) for s in volume.spacing),  # type: ignore[arg-type]
            bundle=first.name,
            bundle_sha256=first.sha256,
            structures=len(manifest.labels),
            roi=manifest.window.roi,
            network_spacing_mm=manifest.preprocess.spacing,
            overlap=manifest.window.overlap,
            giga_multiplications_per_window=giga,
        ),
        rounds=settings.rounds,
        warmup=settings.warmup,
        repeats=settings.repeats,
        reference=reference,
        rows=tuple(rows),
        missing=tuple(missing),
        note=_NOTE,
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
    net: Any, bundle: Bundle, image: Path, folder: Path, truth: Labels | None
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


def row_of(candidate: Candidate, turns: Sequence[dict[str, Any]], labels: Labels, judge: Judge) -> Row:
    """Return a candidate's row from what each of its processes measured and its label map."""
    samples = [sample for turn in turns for sample in turn["samples"]]
    stages = {stage: _spread([sample[stage] for sample in samples]) for stage in STAGES}
    first, later = turns[0], turns[1:]
    computed = first["windows"] - first["windows_reused"]
    network = stages["network"].p50
    gflops = 2 * judge.giga * computed / network
    ceilings = [t["ceiling_gflops"] for t in turns if t["ceiling_gflops"] is not None]
    engine, same = first["engine"], agreement(labels, judge.expected)
    return Row(
        name=candidate.name,
        engine=engine["name"],
        version=engine["version"],
        precision=engine["precision"],
        device=engine["device"],
        threads=engine["threads"],
        bundle=candidate.bundle.name,
        stages=stages,
        total=_spread([sum(sample.values()) for sample in samples]),
        repeats=len(samples),
        windows=first["windows"],
        windows_computed=computed,
        windows_per_second=round(computed / network, 3),
        gflops=round(gflops, 2),
        ceiling_gflops=max(ceilings, default=None),
        share_of_ceiling=round(gflops / max(ceilings), 4) if ceilings else None,
        start_first_seconds=first["start_seconds"],
        start_again_seconds=_median([t["start_seconds"] for t in later]),
        first_result_seconds=first["first_result_seconds"],
        first_result_again_seconds=_median([t["first_result_seconds"] for t in later]),
        peak_memory_mb=max((t["peak_memory_mb"] for t in turns if t["peak_memory_mb"]), default=None),
        device_memory_mb=max((t["device_memory_mb"] for t in turns if t["device_memory_mb"]), default=None),
        labels_equal=same["labels_equal"] or 0.0,
        labels_equal_of_labelled=same["labels_equal_of_labelled"],
        voxels_unequal=int(np.count_nonzero(labels != judge.expected)),
        dice=same["dice"],
        dice_truth=None if judge.truth is None else mean_dice(labels, judge.truth),
    )


def _spread(seconds: Sequence[float]) -> Spread:
    p50, p90 = np.percentile(seconds, [50, 90])
    return Spread(p50=round(float(p50), 5), p90=round(float(p90), 5))


def _median(seconds: Sequence[float]) -> float | None:
    return round(statistics.median(seconds), 3) if seconds else None
