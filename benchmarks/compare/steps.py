"""Prepare the comparison: write checkpoints and bundle once, and return one step per way.

A step runs a way once, in a separate process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.compare.ways import Name, Way
from benchmarks.compare.ways import run as run_way
from benchmarks.graphs import multiplications
from benchmarks.material import Network, write_bundle
from gcis_runtime.engines.gpu.probe import probe_driver
from gcis_runtime.latency.engine_run import COMMAND, Run
from gcis_runtime.latency.processes import run_process
from gcis_runtime.sliding.labeller import Restore
from gcis_runtime.system.cpus import usable_cpus
from gcis_train.text.tower import RANDOM, TextEncoder
from gcis_train.weights import checkpoint
from gcis_train.weights.upcycle import upcycle

Step = Callable[[], dict[str, Any]]
"""Runs a way once, from launch to exit, and returns its measurements."""
TEXT_MODEL = "ViT-B-32-quickgelu"
RESTORE: Restore = "nearest"
"""Every way takes the label of the nearest voxel of the network. The published code stretches labels by array
shape instead, which displaces structures."""
ENGINES = (
    ("onnx", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of turns, threads and calibration windows.

    Attributes:
        rounds: Turns of every engine.
        slow_rounds: Turns of the ways in PyTorch.
        threads: CPU threads.
        calibration: Windows of each calibration phantom of INT8.
    """

    rounds: int = 3
    slow_rounds: int = 1
    threads: int = dataclasses.field(default_factory=usable_cpus)
    calibration: int = 4


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """Step of every way on one volume, and the work per window.

    Attributes:
        ways: Step and number of turns of each way, in the order of the table.
        giga_multiplications: 1e9 multiplications per window of the static network.
    """

    ways: dict[str, tuple[Step, int]]
    giga_multiplications: float


def prepare(network: Network, image: Path, folder: Path, settings: Settings) -> Steps:
    """Write the checkpoints and the bundle that the ways read.

    Args:
        network: Static network; the equivalent routed network is made from it.
        image: CT file.
        folder: Folder of checkpoints, bundle, and label maps `WAY.nii.gz`.
        settings: Numbers of turns, threads and calibration windows.
    """
    _write_checkpoints(network, folder)
    model = write_bundle(network, folder / "ladder.gcis", calibration=settings.calibration)
    giga = round(multiplications(model) / 1e9, 2)
    del model
    ways: dict[str, tuple[Step, int]] = {}
    slow: tuple[Name, ...] = ("published", "routed", "static")
    for way in slow:
        ways[way] = _pytorch_step(way, image, folder, settings), settings.slow_rounds
    for engine, precision in ENGINES:
        step = _engine_step(engine, precision, image, folder, settings)
        ways[f"{engine} {precision}"] = step, settings.rounds
    if probe_driver().gpus:
        step = _pytorch_step("static", image, folder, settings, on_gpu=True)
        ways["static cuda"] = step, settings.rounds
        step = _engine_step("onnx", "fp32", image, folder, settings, on_gpu=True)
        ways["onnx fp32 cuda"] = step, settings.rounds
    return Steps(ways=ways, giga_multiplications=giga)


def _write_checkpoints(network: Network, folder: Path) -> None:
    """Write the static network as `static`, and the routed network that selects its pathways as `routed`."""
    embedded = TextEncoder(TEXT_MODEL, RANDOM).embed(network.prompts)
    net = network.net
    common: dict[str, Any] = {
        "network": net.config,
        "preprocess": network.preprocess,
        "window": network.window,
        "prompts": checkpoint.prompt_table(network.prompts, embedded),
        "text_model": TEXT_MODEL,
        "text_weights": "random (seed 0)",
    }
    paths = tuple(p.one_based for p in net.pathways)
    settled = checkpoint.CheckpointConfig(kind="static", path_selections=paths, **common)
    checkpoint.save(folder / "static", settled, net.state_dict())
    routed = checkpoint.CheckpointConfig(kind="routed", **common)
    checkpoint.save(folder / "routed", routed, upcycle(net, embedded).state_dict())


def _pytorch_step(name: Name, image: Path, folder: Path, settings: Settings, *, on_gpu: bool = False) -> Step:
    device = "cuda" if on_gpu else "cpu"
    out = f"{name} cuda" if on_gpu else name
    way = Way(
        name=name,
        checkpoint=str(folder / ("static" if name == "static" else "routed")),
        image=str(image),
        out=str(folder / f"{out}.nii.gz"),
        restore=RESTORE,
        threads=settings.threads,
        device=device,
    )
    return lambda: run_way(way, home=folder)


def _engine_step(
    engine: str, precision: str, image: Path, folder: Path, settings: Settings, *, on_gpu: bool = False
) -> Step:
    out = f"{engine} {precision} cuda" if on_gpu else f"{engine} {precision}"
    run = Run(
        bundle=str(folder / "ladder.gcis"),
        image=str(image),
        out=str(folder / f"{out}.nii.gz"),
        engine=engine,
        precision=precision,
        device="cuda" if on_gpu else "cpu",
        restore=RESTORE,
        threads=settings.threads,
    )
    return _with_kept_engine(run, folder)


def _with_kept_engine(run: Run, home: Path) -> Step:
    """Return the step of an engine; it opens the engine once before its first turn, to fill the cache."""
    first: list[float] = []

    def step() -> dict[str, Any]:
        if not first:
            opened = run_process(COMMAND, msgspec.structs.replace(run, warmup=0), home=home)
            first.append(opened["start_seconds"])
        found = run_process(COMMAND, run, home=home)
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
