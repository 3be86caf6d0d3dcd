"""Compare the ways of running a network, from the published evaluation to each engine, in turns."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from benchmarks.compare.rows import ladder_row, numbered
from benchmarks.compare.steps import RESTORE, Settings, prepare
from benchmarks.graphs import seeded
from benchmarks.material import Network, write_tiled_phantom
from benchmarks.recover import PATHWAYS, recovered
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.errors import GcisError
from gcis_runtime.images.nifti import read_volume
from gcis_runtime.latency.environment import environment
from gcis_runtime.runs.phantom import write_phantom
from gcis_runtime.spec import PreprocessSpec, Shape3, WindowSpec
from gcis_train.nets.network import StaticGcisNet
from gcis_train.nets.pathway import Pathway

OnStep = Callable[[str], None]
_NOTE = (
    "whole_seconds: from launch to exit of a process that reads the file and writes the label map. Ways take "
    "turns; times_faster pairs every turn of the published way with every turn of the other. The text tower "
    "has the published architecture and seeded weights. Engines were opened once before, which fills their "
    "cache (first_start_seconds). CPU seconds are of all threads, and vary least when other processes run."
)
TITLES = {
    "published": "(a) published: every pathway computed, text tower per case, PyTorch, MONAI",
    "routed": "(b) routed: only the selected pathway, PyTorch, MONAI",
    "static": "(c) static network, PyTorch, MONAI",
    "onnx fp32": "(d) gcis-run, ONNX Runtime fp32",
    "openvino fp32": "(e) gcis-run, OpenVINO fp32",
    "openvino bf16": "(e) gcis-run, OpenVINO bf16",
    "openvino int8": "(e) gcis-run, OpenVINO int8",
    "static cuda": "(f) static network on the GPU, PyTorch, MONAI",
    "onnx fp32 cuda": "(f) gcis-run on the GPU, ONNX Runtime fp32",
}


Structures = Literal["one", "all", "both"]
"""Structures of a run: only the first one, all of them in one label map, or both."""


def trained(
    bundle: str, *, seed: int, image: Path | None, structures: Structures, settings: Settings, on_step: OnStep
) -> dict[str, Any]:
    """Compare all ways with the network of a bundle.

    Args:
        bundle: Folder or name of the bundle from which the network is recovered.
        seed: Seed of the phantom.
        image: CT file; None generates a phantom, whose true labels are known.
        structures: Numbers of structures to compare with.
        settings: Numbers of turns, threads and calibration windows.
        on_step: Called with one line of text per turn.

    Returns:
        Record, ready for JSON.
    """
    where = environment()
    opened = open_bundle(find_bundle(bundle))
    manifest, net = opened.manifest, recovered(opened)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        truth = None
        if image is None:
            image, truth_file = write_phantom(seed, folder)
            truth = read_volume(truth_file).array
        ladders = []
        for count in _counts(len(manifest.labels), structures):
            labels = manifest.labels[:count]
            network = _first(
                net, tuple(label.prompt for label in labels), manifest.preprocess, manifest.window
            )
            theirs = None if truth is None else numbered(truth, [label.value for label in labels])
            place = folder / str(count)
            ladders.append(climb(network, image, place, truth=theirs, settings=settings, on_step=on_step))
    return _record(where, net, manifest.window, settings, ladders) | {
        "weights": f"trained, recovered from bundle {opened.name!r} ({opened.sha256[:12]})",
        "trained": True,
        "image": f"phantom {seed}" if truth is not None else "a CT file",
    }


def untrained(
    feature_size: int,
    roi: int,
    *,
    bundle: str,
    structures: Structures,
    windows: tuple[Shape3, Shape3],
    seed: int,
    settings: Settings,
    on_step: OnStep,
) -> dict[str, Any]:
    """Compare the time of all ways with seeded weights, on a phantom tiled to a number of windows.

    Args:
        feature_size: Channels of the first stage.
        roi: Side of the window in voxels.
        bundle: Bundle whose structures and pathways are used, and so which blocks structures share.
        structures: Numbers of structures to compare with.
        windows: Windows along X, Y, Z for one structure, and for all structures. The published way takes as
            many times longer for all structures as there are structures.
        seed: Seed of the phantom.
        settings: Numbers of turns, threads and calibration windows.
        on_step: Called with one line of text per turn.

    Returns:
        Record, ready for JSON.
    """
    where = environment()
    manifest = open_bundle(find_bundle(bundle)).manifest
    prompts = tuple(label.prompt for label in manifest.labels)
    paths = [Pathway(tuple(n - 1 for n in p.path_selection)) for p in manifest.pathways]
    net = seeded(paths, feature_size, blocks=PATHWAYS)
    window, spacing = WindowSpec(patch_size=(roi,) * 3), (1.5, 1.5, 1.5)
    preprocess = PreprocessSpec(orientation="RAS", spacing=spacing)
    with tempfile.TemporaryDirectory() as temporary:
        ladders = []
        for count in _counts(len(prompts), structures):
            network = _first(net, prompts[:count], preprocess, window)
            place = Path(temporary, str(count))
            place.mkdir()
            image = place / "ct.nii.gz"
            write_tiled_phantom(image, network, windows[0 if count == 1 else 1], seed=seed)
            ladders.append(climb(network, image, place, truth=None, settings=settings, on_step=on_step))
    return _record(where, net, window, settings, ladders) | {
        "weights": "seeded, not trained: only time and memory are meaningful",
        "trained": False,
        "image": f"phantom {seed}, tiled",
    }


def _counts(every: int, structures: Structures) -> list[int]:
    """Return the numbers of structures, the largest first."""
    wanted = {"one": {1}, "all": {every}, "both": {1, every}}[structures]
    return sorted(wanted, reverse=True)


def _first(
    net: StaticGcisNet, prompts: tuple[str, ...], preprocess: PreprocessSpec, window: WindowSpec
) -> Network:
    """Return a network of the first structures of another one."""
    part = StaticGcisNet.resolved(net, net.pathways[: len(prompts)]).eval()
    return Network(net=part, prompts=prompts, preprocess=preprocess, window=window)


def blocks_at_each_position(pathways: Sequence[Pathway]) -> list[int]:
    """Return the number of blocks that the pathways use at each position; 1 if all share one."""
    return [len(set(choices)) for choices in zip(*(p.choices for p in pathways), strict=True)]


def climb(
    network: Network,
    image: Path,
    folder: Path,
    *,
    truth: npt.NDArray[Any] | None,
    settings: Settings,
    on_step: OnStep,
) -> dict[str, Any]:
    """Run every way in turns and return the rows, ready for JSON."""
    on_step(f"{len(network.prompts)} structures: writing checkpoints and bundle")
    folder.mkdir(exist_ok=True)
    steps = prepare(network, image, folder, settings)
    done: dict[str, list[dict[str, Any]]] = {name: [] for name in steps.ways}
    failed: dict[str, str] = {}
    for number in range(max(settings.rounds, settings.slow_rounds)):
        for name, (step, limit) in steps.ways.items():
            if name in failed or number >= limit:
                continue
            try:
                done[name].append(step())
            except GcisError as error:
                failed[name] = str(error)
                continue
            on_step(f"round {number + 1}: {name}: {done[name][-1]['whole_seconds']:.1f} s")
    labels = {name: read_volume(folder / f"{name}.nii.gz").array for name, runs in done.items() if runs}
    rows = [
        {"way": name, "title": TITLES[name]}
        | ({"unavailable": failed[name]} if name in failed else ladder_row(name, done, labels, truth))
        for name in steps.ways
    ]
    return {
        "prompts": list(network.prompts),
        "voxels": list(read_volume(image).shape),
        "giga_multiplications_per_window": steps.giga_multiplications,
        "blocks_at_each_position": blocks_at_each_position(network.net.pathways),
        "rows": rows,
    }


def _record(
    where: dict[str, Any],
    net: StaticGcisNet,
    window: WindowSpec,
    settings: Settings,
    ladders: list[dict[str, Any]],
) -> dict[str, Any]:
    feature_size, roi = net.config.feature_size, window.patch_size[0]
    return {
        "what": f"compare-{feature_size}-{roi}",
        "environment": where,
        "feature_size": feature_size,
        "roi": list(window.patch_size),
        "overlap": window.overlap,
        "pathways": net.config.pathways,
        "restore": RESTORE,
        **dataclasses.asdict(settings),
        "note": _NOTE,
        "ladders": ladders,
    }
