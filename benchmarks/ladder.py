"""The ladder: one network, one volume, from published semantics to each engine, in turns, in one run."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy.typing as npt

from benchmarks.engine_run import Run, in_own_process
from benchmarks.environment import environment
from benchmarks.graph import seeded
from benchmarks.ladder_rows import ladder_row, numbered
from benchmarks.ladder_ways import Name, Way
from benchmarks.material import Network, write_bundle, write_tiled_phantom
from benchmarks.prompts import multiplications
from benchmarks.recover import recovered
from gcis_runtime.bundle import open_bundle
from gcis_runtime.cpus import usable_cpus
from gcis_runtime.cuda.probe import probe_driver
from gcis_runtime.errors import GcisError
from gcis_runtime.labelling import Restore
from gcis_runtime.nifti import read_volume
from gcis_runtime.runs import write_phantom
from gcis_runtime.spec import PreprocessSpec, Shape3, WindowSpec
from gcis_runtime.store import find_bundle
from gcis_train import checkpoint
from gcis_train.nets.network import StaticGcisNet
from gcis_train.pathway import Pathway
from gcis_train.text import RANDOM, TextEncoder
from gcis_train.upcycle import upcycle

Say = Callable[[str], None]
TEXT_MODEL = "ViT-B-32-quickgelu"
RESTORE: Restore = "nearest"
"""As the published code brings labels back, so that every way does the same."""
_NOTE = (
    "whole_seconds: from launch to exit of a process that reads the file and writes the label map. Ways take "
    "turns; times_faster pairs every turn of the published way with every turn of the other. The text tower "
    "has the published architecture and seeded weights. Engines were opened once before, as any first run "
    "does (first_start_seconds). CPU seconds are of all threads: others use the machine too, and disturb "
    "these least."
)
ENGINES = (
    ("onnx", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
TITLES = {
    "published": "(a) published: every pathway computed, text tower at every case, PyTorch, MONAI",
    "routed": "(b) routed: only the chosen pathway, PyTorch, MONAI",
    "static": "(c) static network, PyTorch, MONAI",
    "onnx fp32": "(d) gcis-run's code, ONNX Runtime fp32",
    "openvino fp32": "(e) gcis-run's code, OpenVINO fp32",
    "openvino bf16": "(e) gcis-run's code, OpenVINO bf16",
    "openvino int8": "(e) gcis-run's code, OpenVINO int8",
    "static cuda": "(f) static network on the GPU, PyTorch, MONAI",
    "onnx fp32 cuda": "(f) gcis-run's code on the GPU, ONNX Runtime fp32",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Attributes:
        rounds: Turns of every engine.
        slow_rounds: Turns of the ways in PyTorch.
        threads: CPU threads.
        calibration: Windows of each calibration phantom of INT8.
    """

    rounds: int = 2
    slow_rounds: int = 2
    threads: int = dataclasses.field(default_factory=usable_cpus)
    calibration: int = 4


def trained(
    bundle: str, *, seed: int, image: Path | None, alone: bool, settings: Settings, say: Say
) -> dict[str, Any]:
    """Climb the ladder with a bundle's network: all its structures together, then its first one alone.

    Args:
        bundle: The bundle; its network is taken out of it.
        seed: Phantom.
        image: CT file; None takes the phantom, whose true labels are known.
        alone: Climb it with the first structure alone too.
        settings: How to measure.
        say: Told of each turn.

    Returns:
        The record, ready for JSON.
    """
    where = environment()
    opened = open_bundle(find_bundle(bundle))
    manifest, net = opened.manifest, recovered(opened)
    prompts = tuple(label.prompt for label in manifest.labels)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        truth = None
        if image is None:
            image, truth_file = write_phantom(seed, folder)
            truth = read_volume(truth_file).array
        ladders = []
        for names in [prompts, *([prompts[:1]] if alone and len(prompts) > 1 else [])]:
            part = StaticGcisNet.resolved(net, net.pathways[: len(names)]).eval()
            network = Network(net=part, prompts=names, preprocess=manifest.preprocess, window=manifest.window)
            place = folder / str(len(names))
            place.mkdir()
            values = [label.value for label in manifest.labels[: len(names)]]
            theirs = None if truth is None else numbered(truth, values)
            ladders.append(climb(network, image, place, truth=theirs, settings=settings, say=say))
    return _record(where, net, manifest.window, settings, ladders) | {
        "weights": f"trained, recovered from bundle {opened.name!r} ({opened.sha256[:12]})",
        "trained": True,
        "image": f"phantom {seed}" if truth is not None else "a CT file",
    }


def untrained(
    feature_size: int, roi: int, *, windows: Shape3, seed: int, settings: Settings, say: Say
) -> dict[str, Any]:
    """Climb the ladder with seeded weights, on a phantom tiled to a number of windows, for time alone.

    Args:
        feature_size: Channels of the first stage.
        roi: Window side.
        windows: Windows along X, Y, Z.
        seed: Of the phantom.
        settings: How to measure.
        say: Told of each turn.

    Returns:
        The record, ready for JSON.
    """
    where = environment()
    net = seeded([Pathway((5,) * 7)], feature_size)
    window = WindowSpec(roi=(roi,) * 3)
    network = Network(
        net=net,
        prompts=("mandible",),
        preprocess=PreprocessSpec(orientation="RAS", spacing=(1.5, 1.5, 1.5)),
        window=window,
    )
    with tempfile.TemporaryDirectory() as temporary:
        image = Path(temporary) / "ct.nii.gz"
        write_tiled_phantom(image, network, windows, seed=seed)
        ladder = climb(network, image, Path(temporary), truth=None, settings=settings, say=say)
    return _record(where, net, window, settings, [ladder]) | {
        "weights": "seeded, not trained: labels mean nothing, time and memory do",
        "trained": False,
        "image": f"phantom {seed}, tiled",
    }


def climb(
    network: Network,
    image: Path,
    folder: Path,
    *,
    truth: npt.NDArray[Any] | None,
    settings: Settings,
    say: Say,
) -> dict[str, Any]:
    """Run every way in turns; returns its rows, ready for JSON."""
    say("writing checkpoints and the bundle")
    turns = _turns(network, image, folder, settings)
    giga = turns.pop("")[1]
    done: dict[str, list[dict[str, Any]]] = {name: [] for name in turns}
    failed: dict[str, str] = {}
    for number in range(max(settings.rounds, settings.slow_rounds)):
        for name, (step, limit) in turns.items():
            if name in failed or number >= limit:
                continue
            try:
                done[name].append(step())
            except GcisError as error:
                failed[name] = str(error)
                continue
            say(f"round {number + 1}: {name}: {done[name][-1]['whole_seconds']:.1f} s")
    labels = {name: read_volume(folder / f"{name}.nii.gz").array for name, runs in done.items() if runs}
    rows = [
        {"way": name, "title": TITLES[name]}
        | ({"unavailable": failed[name]} if name in failed else ladder_row(name, done, labels, truth))
        for name in turns
    ]
    return {
        "prompts": list(network.prompts),
        "voxels": list(read_volume(image).shape),
        "giga_multiplications_per_window": giga,
        "rows": rows,
    }


def _turns(network: Network, image: Path, folder: Path, settings: Settings) -> dict[str, tuple[Any, Any]]:
    """Write what the ways read; return each way's step with its number of turns, and under `""` the work."""
    static, routed, bundle = folder / "static", folder / "routed", folder / "ladder.gcis"
    embedded = TextEncoder(TEXT_MODEL, RANDOM).embed(network.prompts)
    prompts, net = checkpoint.prompt_table(network.prompts, embedded), network.net
    common: dict[str, Any] = {
        "network": net.config,
        "preprocess": network.preprocess,
        "window": network.window,
        "prompts": prompts,
        "text_model": TEXT_MODEL,
        "text_weights": "random (seed 0)",
    }
    paths = tuple(p.one_based for p in net.pathways)
    settled = checkpoint.CheckpointConfig(kind="static", path_selections=paths, **common)
    checkpoint.save(static, settled, net.state_dict())
    checkpoint.save(
        routed, checkpoint.CheckpointConfig(kind="routed", **common), upcycle(net, embedded).state_dict()
    )
    giga = round(multiplications(write_bundle(network, bundle, calibration=settings.calibration)) / 1e9, 2)

    def pytorch(name: Name, device: str, out: str) -> Callable[[], dict[str, Any]]:
        way = Way(
            name=name,
            checkpoint=str(static if name == "static" else routed),
            image=str(image),
            out=str(folder / f"{out}.nii.gz"),
            restore=RESTORE,
            threads=settings.threads,
            device=device,
        )
        return lambda: in_own_process("ladder-way", way, home=folder)

    def engine(name: str, precision: str, device: str, out: str) -> Callable[[], dict[str, Any]]:
        run = Run(
            bundle=str(bundle),
            image=str(image),
            out=str(folder / f"{out}.nii.gz"),
            engine=name,
            precision=precision,
            device=device,
            restore=RESTORE,
            threads=settings.threads,
        )
        return _with_kept_engine(run, folder)

    turns: dict[str, tuple[Any, Any]] = {"": (None, giga)}
    slow: tuple[Name, ...] = ("published", "routed", "static")
    for way in slow:
        turns[way] = pytorch(way, "cpu", way), settings.slow_rounds
    for name, precision in ENGINES:
        key = f"{name} {precision}"
        turns[key] = engine(name, precision, "cpu", key), settings.rounds
    if probe_driver().gpus:
        turns["static cuda"] = pytorch("static", "cuda", "static cuda"), settings.rounds
        turns["onnx fp32 cuda"] = engine("onnx", "fp32", "cuda", "onnx fp32 cuda"), settings.rounds
    return turns


def _with_kept_engine(run: Run, home: Path) -> Callable[[], dict[str, Any]]:
    """Return the step of an engine; before the first one the engine is opened once, as any first run does."""
    first: list[float] = []

    def step() -> dict[str, Any]:
        if not first:
            opened = in_own_process("engine-run", msgspec.structs.replace(run, warmup=0), home=home)
            first.append(opened["start_seconds"])
        found = in_own_process("engine-run", run, home=home)
        stages = found["first"]
        return {
            "whole_seconds": found["whole_seconds"],
            "cpu_seconds": found["cpu_seconds"],
            "start_seconds": found["start_seconds"],
            "first_start_seconds": first[0],
            "network_seconds": stages["network"],
            "other_seconds": round(sum(s for n, s in stages.items() if n != "network"), 3),
            "windows": found["windows"],
            "windows_computed": found["windows"] - found["windows_reused"],
            "peak_memory_mb": found["peak_memory_mb"],
        }

    return step


def _record(
    where: dict[str, Any],
    net: StaticGcisNet,
    window: WindowSpec,
    settings: Settings,
    ladders: list[dict[str, Any]],
) -> dict[str, Any]:
    feature_size, roi = net.config.feature_size, window.roi[0]
    return {
        "what": f"compare-{feature_size}-{roi}",
        "environment": where,
        "feature_size": feature_size,
        "roi": list(window.roi),
        "overlap": window.overlap,
        "pathways": net.config.pathways,
        "restore": RESTORE,
        **dataclasses.asdict(settings),
        "note": _NOTE,
        "ladders": ladders,
    }
