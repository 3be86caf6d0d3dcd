"""Define the device, sizes, graphs and bundles of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from benchmarks.gpu_parts.networks import Graphs
from benchmarks.gpu_parts.rig import Rig
from gcis_runtime.spec import Shape3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of networks, windows and volumes.

    Attributes:
        feature_size: Channels of the first stage.
        pathways: Blocks per position.
        windows: Windows of the ladder, voxels.
        batches: Windows per batch.
        volume: Shape of the CT file of the end-to-end section.
        voxel: Voxel size of that file in mm.
        grids: Shape of the network's grid for that file by voxel size of the network in mm.
        training: Windows of training steps, voxels.
        processes: Repeated processes whose exit codes are counted.
    """

    feature_size: int
    pathways: int
    windows: tuple[Shape3, ...]
    batches: tuple[int, ...]
    volume: Shape3
    voxel: tuple[float, float, float]
    grids: Mapping[float, Shape3]
    training: tuple[Shape3, ...]
    processes: int


FULL = Sizes(
    feature_size=48,
    pathways=6,
    windows=((96, 96, 96), (128, 128, 128)),
    batches=(1, 4, 8, 2),  # by priority
    volume=(512, 512, 425),
    voxel=(0.8, 0.8, 1.0),
    grids=MappingProxyType({1.5: (273, 273, 283), 1.0: (410, 410, 425)}),
    training=((96, 96, 96), (128, 128, 128)),
    processes=10,
)
TINY = Sizes(
    feature_size=12,
    pathways=2,
    windows=((64, 32, 32),),
    batches=(1,),
    volume=(64, 64, 64),
    voxel=(4.0, 4.0, 4.0),
    grids=MappingProxyType({4.0: (64, 32, 40)}),
    training=((64, 32, 32),),
    processes=2,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """Define the device, sizes, graphs and bundles of a run.

    Attributes:
        rig: Device.
        sizes: Sizes of networks, windows and volumes.
        graphs: ONNX graphs.
        wide: Bundle of the end-to-end section, written by `--prepare`; the demo bundle with toy sizes.
        bundles: Further bundles of the end-to-end section, in addition to the demo bundle.
        folder: Folder for files of this run.
    """

    rig: Rig
    sizes: Sizes
    graphs: Graphs
    wide: str | Path | None
    bundles: tuple[str, ...]
    folder: Path


def text(shape: Shape3) -> str:
    """Return the name of a window: `96`, or `64x32x32`."""
    return str(shape[0]) if len(set(shape)) == 1 else "x".join(map(str, shape))
