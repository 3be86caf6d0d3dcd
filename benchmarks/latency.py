"""Measure latency with PyTorch as the reference and, if no bundle has one, an int8 graph.

Without PyTorch and onnx, `gcis-bundle latency` writes the same report with ONNX Runtime as the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.compare.ways import Way
from benchmarks.compare.ways import run as run_way
from benchmarks.material import Network, write_bundle
from benchmarks.recover import recovered, save_static
from gcis_runtime.bundles.bundle import Bundle, open_bundle
from gcis_runtime.images.nifti import read_volume
from gcis_runtime.latency import measure as latency
from gcis_runtime.latency.agreement import mean_dice
from gcis_runtime.latency.record import LatencyRecord, Reference
from gcis_runtime.latency.rows import Labels
from gcis_runtime.sliding.labeller import DEFAULT_RESTORE
from gcis_runtime.system.cpus import usable_cpus
from gcis_train.nets.network import StaticGcisNet

CALIBRATION = 4
"""Windows of each of two phantoms from which the int8 graph takes its ranges."""


def measure(
    bundles: Sequence[str],
    image: Path | None,
    settings: latency.Settings,
    *,
    int8: bool,
    on_step: latency.OnStep,
) -> LatencyRecord:
    """Measure every engine on one volume, with the network in PyTorch as the reference.

    Args:
        bundles: Folders or names of bundles of one network; the first gives the weights of the reference.
        image: CT file; None generates a phantom, whose true labels are known.
        settings: Numbers of processes and runs.
        int8: Write an int8 graph from the weights of the first bundle if no bundle has one.
        on_step: Called with a line of text per step.

    Raises:
        BundleError: A bundle cannot be used, or the bundles do not have the same structures.
        GcisError: The image cannot be used, or no engine ran.
    """

    def given(material: latency.Material) -> latency.Given:
        first = material.bundles[0]
        on_step("reference: PyTorch in float32")
        net = recovered(first)
        reference, labels = _reference(net, first, material)
        added: tuple[Bundle, ...] = ()
        precisions = {graph.precision for bundle in material.bundles for graph in bundle.manifest.graphs}
        if int8 and "int8" not in precisions:
            on_step("writing an int8 graph")
            added = (_with_int8(net, first, material.folder / "int8.gcis"),)
        return reference, labels, added

    return latency.measure(bundles, image, settings, on_step=on_step, reference=given)


def _with_int8(net: StaticGcisNet, bundle: Bundle, folder: Path) -> Bundle:
    """Write a network as a bundle that has an int8 graph, and open it."""
    manifest = bundle.manifest
    prompts = tuple(label.prompt for label in manifest.labels)
    network = Network(net=net, prompts=prompts, preprocess=manifest.preprocess, window=manifest.window)
    write_bundle(network, folder, calibration=CALIBRATION)
    return open_bundle(folder)


def _reference(net: StaticGcisNet, bundle: Bundle, material: latency.Material) -> tuple[Reference, Labels]:
    """Run PyTorch and MONAI in a separate process; return the measurements and the label map."""
    folder = material.folder
    save_static(net, bundle, folder / "static")
    way = Way(
        name="static",
        checkpoint=str(folder / "static"),
        image=str(material.image),
        out=str(folder / "reference.nii.gz"),
        restore=DEFAULT_RESTORE,
        threads=usable_cpus(),
    )
    found = run_way(way, home=folder)
    channels = read_volume(folder / "reference.nii.gz").array.astype(np.intp)
    values = np.array([0, *(label.value for label in bundle.manifest.labels)])
    labels: Labels = values[channels]
    reference = Reference(
        whole_seconds=found["whole_seconds"],
        network_seconds=found["network_seconds"],
        peak_memory_mb=found["peak_memory_mb"],
        dice_truth=None if material.truth is None else mean_dice(labels, material.truth),
    )
    return reference, labels
