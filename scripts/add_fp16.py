"""Add an fp16 graph to a bundle from its own weights, such as the demo bundle without its checkpoint.

`python -m scripts.add_fp16 BUNDLE NEW_BUNDLE` copies a bundle that `gcis-export --weights fp16` wrote. All
files stay the same; the new graph refers to the weights in `model.onnx`, and is compared with the network
that is recovered from them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import msgspec
import onnx
import torch

from benchmarks.recover import recovered
from gcis_export.bundle.staged import StagedBundle
from gcis_export.bundle.writer import staged
from gcis_export.gate.check_windows import gather_windows
from gcis_export.gate.parity import ROUNDED, Gate, Reference
from gcis_export.graph.optimize import restore_float
from gcis_export.precision.variants import add_graph, convert
from gcis_runtime.bundles.bundle import Bundle, open_bundle
from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.engines.parity import describe
from gcis_runtime.errors import BundleError
from gcis_runtime.system.console import command, echo


def add_fp16(bundle: Bundle, target: Path) -> Manifest:
    """Write a copy of a bundle with an fp16 graph, and return its manifest.

    Args:
        bundle: Bundle without an fp16 graph, whose weights are stored as float16.
        target: Folder of the new bundle.

    Raises:
        BundleError: The bundle has an fp16 graph or float32 weights, or its network cannot be recovered.
        ParityError: The new graph exceeds the limits of fp16.
        OutputError: The new bundle cannot be written.
    """
    manifest = bundle.manifest
    if manifest.model.weights_dtype != "float16" or any(g.precision == "fp16" for g in manifest.graphs):
        raise BundleError(
            "an fp16 graph cannot be added to this bundle",
            received=f"weights stored as {manifest.model.weights_dtype}, "
            f"graphs {', '.join(g.file for g in manifest.graphs)}",
            expected="weights stored as float16, and no fp16 graph",
            fix="Export the checkpoint with --weights fp16 --precision fp16.",
        )
    network = recovered(bundle)
    windows, _ = gather_windows((), spec=manifest.preprocess, window=manifest.window)
    gate = Gate(windows)

    def run(window: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return network(window)  # type: ignore[no-any-return]

    answers = gate.answers(lambda window: run(torch.from_numpy(window)).numpy())
    with staged(target) as folder:
        for entry in manifest.files:
            (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.file(entry.path), folder / entry.path)
        model = restore_float(onnx.load_from_string(bundle.graph(manifest.model.file)))
        graph, entry = add_graph(
            folder,
            convert(model, "fp16", sharing=True),
            "fp16",
            gate=gate,
            reference=Reference(name=ROUNDED, answers=answers),
            sharing=True,
        )
        new = StagedBundle(folder=folder, manifest=manifest, gate=gate).with_graph(graph, entry).manifest
        new = msgspec.structs.replace(new, parity=(*new.parity, *gate.rows))
        StagedBundle(folder=folder, manifest=new, gate=gate).write()
    return new


@command("add_fp16", extras="export")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("new_bundle", type=click.Path(path_type=Path))
def main(bundle: Path, new_bundle: Path) -> None:
    """Copy BUNDLE to NEW_BUNDLE and add an fp16 graph that shares its weights."""
    manifest = add_fp16(open_bundle(bundle), new_bundle)
    echo(f"{new_bundle}: {describe(manifest.parity[-1])}")


if __name__ == "__main__":
    main()
