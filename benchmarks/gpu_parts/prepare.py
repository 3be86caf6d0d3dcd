"""Write the graphs and the bundle of the GPU script for a machine without onnx and onnxscript."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.conformance import Conformance
from benchmarks.gpu_parts.context import Context, text
from benchmarks.gpu_parts.networks import routed, static
from benchmarks.gpu_parts.processes import WIDE
from benchmarks.wide_bundle import write_wide_bundle


def prepare(context: Context, folder: Path, *, on_file: Callable[[str], None]) -> None:
    """Write the graphs of parity and of batch 1 of the ladder, and the bundle of the end-to-end section.

    Args:
        context: Sizes, and the graphs, which are kept in `folder`.
        folder: Folder of graphs and bundle.
        on_file: Called with the path of each file.
    """
    tiny = context.rig.tiny
    for case in ("small",) if tiny else ("small", "two_pathways"):
        net = Conformance(case, prompts=1 if tiny else None).static
        for precision in ("fp32", "fp16", "bf16"):
            name = f"parity-{case}{'-1' if tiny else ''}-{precision}"
            context.graphs.get(name, net.cpu, (64, 64, 64), 1, precision)
            on_file(str(folder / f"{name}.onnx"))
    sizes = context.sizes
    seeded = static(*routed(sizes.feature_size, pathways=sizes.pathways))
    for roi in sizes.windows:
        for precision in ("fp16", "fp32"):
            name = f"ladder-{sizes.feature_size}-{text(roi)}-b1-{precision}"
            context.graphs.get(name, seeded.cpu, roi, 1, precision)
            on_file(str(folder / f"{name}.onnx"))
    if tiny:
        return  # the demo bundle takes its place
    write_wide_bundle(
        folder / WIDE,
        prompts=1,
        feature_size=sizes.feature_size,
        roi=sizes.windows[0][0],
        engines=("onnx",),
        precision="fp16",
        compressible=True,
    )
    on_file(str(folder / WIDE))
