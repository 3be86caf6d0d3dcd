"""What every section is given."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchmarks.gpu_parts.networks import Graphs
from benchmarks.gpu_parts.rig import Rig
from gcis_runtime.spec import Shape3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large things are.

    Attributes:
        feature_size: Channels of the first stage.
        pathways: Blocks of each position.
        windows: Windows of the ladder.
        batches: Windows at once.
        volume: The file of the end-to-end section.
        voxel: Its voxel size in mm.
        grid: The network's grid for it.
        training: Windows of training steps.
    """

    feature_size: int
    pathways: int
    windows: tuple[Shape3, ...]
    batches: tuple[int, ...]
    volume: Shape3
    voxel: tuple[float, float, float]
    grid: Shape3
    training: tuple[Shape3, ...]


FULL = Sizes(
    feature_size=48,
    pathways=6,
    windows=((96, 96, 96), (128, 128, 128)),
    batches=(1, 4, 8, 2),  # what is worth most first
    volume=(512, 512, 425),
    voxel=(0.8, 0.8, 1.0),
    grid=(273, 273, 283),  # at 1.5 mm
    training=((96, 96, 96), (128, 128, 128)),
)
TINY = Sizes(
    feature_size=12,
    pathways=2,
    windows=((64, 32, 32),),
    batches=(1,),
    volume=(64, 64, 64),
    voxel=(4.0, 4.0, 4.0),
    grid=(64, 32, 40),
    training=((64, 32, 32),),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """The device, sizes, graphs, and bundles that were brought.

    Attributes:
        rig: The device.
        sizes: How large things are.
        graphs: ONNX graphs.
        bundles: Bundles for the end-to-end section, beside the demo's.
        folder: For files of this run.
    """

    rig: Rig
    sizes: Sizes
    graphs: Graphs
    bundles: tuple[str, ...]
    folder: Path


def text(shape: Shape3) -> str:
    """Name a window: `96`, or `64x32x32`."""
    return str(shape[0]) if len(set(shape)) == 1 else "x".join(map(str, shape))
