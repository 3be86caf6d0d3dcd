"""How much memory segmenting a volume will take, worked out before any of it is taken.

The parts are those that `labelling` and what it calls allocate, so they are exact where they are arrays of a
known size; where content decides (interpolating costs what the structures' boxes cost), the worst is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.grids.grid_transform import GridTransform
from gcis_runtime.sliding.carry_over import STAGED_BYTES
from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.sliding.schedule import Schedule, schedule
from gcis_runtime.spec import Shape3

_FLOAT = 4
_SLACK = 32 << 20
"""The interpreter's own comings and goings, and pieces that are cut to fit a cache."""
_PLACE = 24 << 22
"""Interpolating a box of 4 million voxels (`samplers`): what goes in, comes out and lies between, bytes."""
_CHUNK = 100 << 20
"""Coordinates of a chunk of a sheared grid (`resample`)."""
_FEATURES, _WEIGHTS = 12, 4.25e6
"""A network of feature size 12 with seven prompts has so many bytes of weights; they grow with its square."""
_MAPS = {"onnx": 90, "openvino": 20}
"""Arrays of one window times the feature size that an engine holds at its peak, as measured."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes by what they are for.

    Attributes:
        labels: Label map, masks and probabilities on the file's grid.
        image: The slab that windows are cut from, and resampling it.
        sums: Logits and weights that wait for more windows.
        answers: Logits of single windows.
        restore: Bringing a tile to the file's grid.
    """

    labels: int
    image: int
    sums: int
    answers: int
    restore: int

    @property
    def total(self) -> int:
        """All of it, with slack."""
        return self.labels + self.image + self.sums + self.answers + self.restore + _SLACK


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What of a segmentation decides its memory.

    Attributes:
        values: Label values.
        smooth: Whether logits are interpolated.
        masks: Masks are kept.
        probabilities: Probabilities are kept.
    """

    values: tuple[int, ...]
    smooth: bool
    masks: bool = False
    probabilities: bool = False


def host_footprint(
    plan: WindowPlan,
    transform: GridTransform,
    shape: Shape3,
    wanted: Wanted,
    *,
    graph_channels: int,
    on_disk: bool = False,
) -> Footprint:
    """Return what blending with numpy takes beside the image, the engine and the interpreter.

    Args:
        plan: Window positions.
        transform: The way between the grids.
        shape: The file's grid (X, Y, Z).
        wanted: What is made.
        graph_channels: Channels of a window's answer.
        on_disk: Sums that wait for more windows lie in a file.
    """
    channels, voxels, window = len(wanted.values), _count(shape), _count(plan.patch_size)
    plane = _count(plan.padded) // plan.padded[plan.axis]
    answer = graph_channels * window * _FLOAT
    order = schedule(plan)
    waiting = STAGED_BYTES if on_disk else order.waiting_bytes(channels)
    return Footprint(
        labels=_label_bytes(voxels, wanted),
        image=(plane * plan.patch_size[plan.axis] + window) * _FLOAT + _resampling(plan, transform),
        sums=order.working_bytes(channels) + waiting + (2 << 20),
        answers=3 * answer,  # the one that is added, and those of two constant windows: air and bone
        restore=_restoring(order, transform, shape, wanted),
    )


def activations(manifest: Manifest, *, weights: int, engine: str, batch: int) -> int:
    """Guess what an engine takes for its first runs, from the sizes of model and window alone.

    Args:
        manifest: The bundle's manifest.
        weights: Bytes of the graph's file.
        engine: The engine's name.
        batch: Windows a run.
    """
    features = _FEATURES * float(np.sqrt(weights / _WEIGHTS))
    maps = _MAPS.get(engine, max(_MAPS.values())) * max(1.0, features)
    return int(maps * _count(manifest.window.patch_size) * _FLOAT * batch)


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _label_bytes(voxels: int, wanted: Wanted) -> int:
    """Label map; masks of one bit a voxel, unpacked one at a time; probabilities that deflate shrinks."""
    structures = len(wanted.values)
    item = 1 if max(wanted.values) <= 255 else 2
    masks = voxels * structures // 8 + voxels if wanted.masks else 0
    probabilities = voxels * structures // 8 + voxels if wanted.probabilities else 0
    return voxels * item + masks + probabilities


def _resampling(plan: WindowPlan, transform: GridTransform) -> int:
    """What `GridMap.linear` holds while it makes the first slab's planes."""
    depth = min(plan.patch_size[plan.axis], plan.shape[plan.axis])
    planes = _count(plan.shape) // plan.shape[plan.axis] * depth
    grid = transform.to_network
    if grid is None:
        return planes * _FLOAT
    if not grid.separable:
        return 2 * planes * _FLOAT + _CHUNK
    size = list(grid.shape_in)
    size[plan.axis] = min(size[plan.axis], -(-depth * size[plan.axis] // plan.shape[plan.axis]) + 2)
    out = list(plan.shape)
    out[plan.axis] = depth
    steps = []
    for axis in grid.cheapest_order():
        size[axis] = out[axis]
        steps.append(_count(tuple(size)))
    return _FLOAT * max(a + b for a, b in zip(steps, [*steps[1:], 0], strict=True))


def _restoring(order: Schedule, transform: GridTransform, shape: Shape3, wanted: Wanted) -> int:
    """What a tile takes on its way to the file's grid, with the plane and the row that are kept."""
    plan, tile, channels = order.plan, order.tile, len(wanted.values)
    ratio = [min(1.0, (t + 1) / n) for t, n in zip(tile, plan.shape, strict=True)]
    covered = float(np.prod(ratio)) * _count(shape)
    if transform.to_file is None or not wanted.smooth:
        return int(_count(tile) * 8 + min(_PLACE, 6 * covered))
    kept = _count(plan.padded) // plan.padded[plan.axis] * channels * _FLOAT
    row = tile[plan.axis] * tile[plan.across[1]] * channels * _FLOAT
    extended = _count(tuple(n + 1 for n in tile)) * _FLOAT
    canvas = _FLOAT + (1 if max(wanted.values) <= 255 else 2)
    place = min(_PLACE, 24 * covered)
    if not transform.to_file.separable:
        place += 30 * covered  # coordinates of every voxel that the tile decides
    return int(kept + 2 * row + 2 * extended + canvas * covered + place)
