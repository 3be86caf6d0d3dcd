"""Compute the host memory for segmenting a volume from the sizes of grids, windows and channels.

The parts follow the allocations of `sliding.labeller` and the functions that it calls. Arrays of a known size
are exact. Where the size depends on the content (interpolation costs as much as the boxes of the structures),
the worst case is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.grids.grid_transform import GridTransform
from gcis_runtime.grids.samplers import BLOCK
from gcis_runtime.sliding.carry_over import STAGED_BYTES
from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.sliding.schedule import Schedule, make_schedule
from gcis_runtime.spec import FLOAT32_BYTES, Shape3, label_dtype

_SLACK = 32 << 20
"""Temporary objects of the interpreter, and parts of arrays that fit the processor cache, in bytes."""
_PLACE = 24 << 22
"""Bytes for interpolating a box of 4 million voxels (`samplers`): input, output and intermediate arrays."""
_COORDINATES, _BLOCK_BYTES = 30, 24 << 20
"""Bytes per voxel that a tile determines in blocks: coordinates and mask; bytes while a block is sampled."""
_CHUNK = 100 << 20
"""Bytes of the coordinates of a chunk of a sheared grid (`resample`)."""
_POST_LINE, _POST_VOXEL, _POST_CHUNK = 300, 12, 1 << 22
"""Bytes of `post`: runs of a structure per line of the file grid, and arrays of at most 4 million voxels."""
_FEATURES, _WEIGHTS = 12, 4.25e6
"""Feature size and bytes of weights of a reference network with seven prompts. Bytes grow with the square."""
_MAPS = {"onnx": 90, "openvino": 20}
"""Measured peak memory of an engine, in arrays of one window per feature of the network."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Host memory in bytes by purpose.

    Attributes:
        labels: Label map, masks and probabilities on the file grid.
        image: Slab of the image from which windows are cut, and its resampling.
        sums: Unfinished sums of logits and weights.
        outputs: Outputs of the network for single windows.
        native_grid: Mapping of a tile to the native grid.
        post: Post-processing of the finished label map.
    """

    labels: int
    image: int
    sums: int
    outputs: int
    native_grid: int
    post: int = 0

    @property
    def total(self) -> int:
        """Sum of the parts that are held while windows run, with a reserve."""
        return self.labels + self.image + self.sums + self.outputs + self.native_grid + _SLACK

    @property
    def afterwards(self) -> int:
        """Sum of the parts that are held after the windows, with a reserve."""
        return self.labels + self.post + _SLACK


@dataclass(frozen=True, kw_only=True)
class RequestedOutputs:
    """Requested outputs of a segmentation that determine its memory.

    Attributes:
        values: Label values.
        smooth: Whether logits are interpolated on the native grid; otherwise labels are looked up in tiles,
            for `"nearest"` and `"published"` alike.
        masks: Whether masks are stored.
        probabilities: Whether probabilities are stored.
        post: Whether post-processing rules are applied.
    """

    values: tuple[int, ...]
    smooth: bool
    masks: bool = False
    probabilities: bool = False
    post: bool = False


def host_footprint(
    plan: WindowPlan,
    transform: GridTransform,
    shape: Shape3,
    requested: RequestedOutputs,
    *,
    graph_channels: int,
    on_disk: bool = False,
) -> Footprint:
    """Return the memory for blending with NumPy, without the image, the engine and the interpreter.

    Args:
        plan: The window plan.
        transform: Transform between the file grid and the network grid.
        shape: Shape of the file grid (X, Y, Z).
        requested: The requested outputs.
        graph_channels: Number of channels of the graph's output.
        on_disk: Whether unfinished sums are carried over in a temporary file.
    """
    channels, voxels, window = len(requested.values), _count(shape), _count(plan.patch_size)
    plane = _count(plan.padded) // plan.padded[plan.axis]
    output = graph_channels * window * FLOAT32_BYTES
    schedule = make_schedule(plan)
    carried = STAGED_BYTES if on_disk else schedule.carry_over_bytes(channels)
    return Footprint(
        labels=_label_bytes(voxels, requested),
        image=(plane * plan.patch_size[plan.axis] + window) * FLOAT32_BYTES + _resampling(plan, transform),
        sums=schedule.working_bytes(channels) + carried + (2 << 20),
        outputs=3 * output,  # the current one, and those of two constant windows: air and bone
        native_grid=_native_grid(schedule, transform, shape, requested),
        post=_post_bytes(shape) if requested.post else 0,
    )


def activations(manifest: Manifest, *, weights: int, engine: str, batch: int) -> int:
    """Estimate the memory of an engine's first runs from the sizes of model and window.

    Args:
        manifest: Manifest of the bundle.
        weights: Bytes of the graph file.
        engine: Name of the engine.
        batch: Windows per run.
    """
    features = _FEATURES * float(np.sqrt(weights / _WEIGHTS))
    maps = _MAPS.get(engine, max(_MAPS.values())) * max(1.0, features)
    return int(maps * _count(manifest.window.patch_size) * FLOAT32_BYTES * batch)


def _post_bytes(shape: Shape3) -> int:
    """Return the bytes that post-processing needs on the file grid."""
    return _POST_LINE * shape[1] * shape[2] + _POST_VOXEL * min(_count(shape), _POST_CHUNK)


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _label_size(requested: RequestedOutputs) -> int:
    """Return the bytes of a label."""
    return np.dtype(label_dtype(max(requested.values))).itemsize


def _label_bytes(voxels: int, requested: RequestedOutputs) -> int:
    """Return the bytes of the label map, masks (one bit per voxel, unpacked in turn) and probabilities."""
    structures = len(requested.values)
    item = _label_size(requested)
    masks = voxels * structures // 8 + voxels if requested.masks else 0
    probabilities = voxels * structures // 8 + voxels if requested.probabilities else 0
    return voxels * item + masks + probabilities


def _resampling(plan: WindowPlan, transform: GridTransform) -> int:
    """Return the bytes that `GridMap.linear` holds while it computes the planes of the first slab."""
    depth = min(plan.patch_size[plan.axis], plan.shape[plan.axis])
    planes = _count(plan.shape) // plan.shape[plan.axis] * depth
    grid = transform.to_network
    if grid is None:
        return planes * FLOAT32_BYTES
    if not grid.separable:
        return 2 * planes * FLOAT32_BYTES + _CHUNK
    size = list(grid.shape_in)
    size[plan.axis] = min(size[plan.axis], -(-depth * size[plan.axis] // plan.shape[plan.axis]) + 2)
    out = list(plan.shape)
    out[plan.axis] = depth
    steps = []
    for axis in grid.cheapest_order():
        size[axis] = out[axis]
        steps.append(_count(tuple(size)))
    return FLOAT32_BYTES * max(a + b for a, b in zip(steps, [*steps[1:], 0], strict=True))


def _native_grid(
    schedule: Schedule, transform: GridTransform, shape: Shape3, requested: RequestedOutputs
) -> int:
    """Return the bytes for mapping a tile to the native grid, with the stored plane and line of logits."""
    plan, tile, channels = schedule.plan, schedule.tile_shape, len(requested.values)
    ratio = [min(1.0, (t + 1) / n) for t, n in zip(tile, plan.shape, strict=True)]
    covered = float(np.prod(ratio)) * _count(shape)
    blocks, coordinates = touched_blocks(schedule, transform, shape, requested)
    if transform.to_file is None or not requested.smooth:
        return int(_count(tile) * 8 + min(_PLACE, 6 * covered) + coordinates)
    kept = _count(plan.padded) // plan.padded[plan.axis] * channels * FLOAT32_BYTES
    line = tile[plan.axis] * tile[plan.across[1]] * channels * FLOAT32_BYTES
    extended = _count(tuple(n + 1 for n in tile)) * FLOAT32_BYTES
    canvas = FLOAT32_BYTES + _label_size(requested)
    place = min(_PLACE, 24 * covered) + coordinates
    return int(kept + 2 * line + 2 * extended + canvas * max(covered, blocks) + place)


def touched_blocks(
    schedule: Schedule, transform: GridTransform, shape: Shape3, requested: RequestedOutputs
) -> tuple[float, float]:
    """Return the voxels of the blocks that a tile touches, and the bytes of their coordinates (`samplers`).

    Both are 0 if voxels are looked up axis by axis. The tile is extended by the size of a block on the
    network grid: where axes differ, blocks reach beyond the tile.
    """
    grid = transform.to_file
    if grid is None or (grid.separable and (requested.smooth or not grid.noise_breaks_ties())):
        return 0.0, 0.0
    linear = grid.matrix[:3, :3]
    density = abs(float(np.linalg.det(linear)))  # network voxels per file voxel
    tile = np.minimum(np.array(schedule.tile_shape) + 1, schedule.plan.shape)
    reach = np.minimum(tile + np.abs(linear) @ np.full(3, BLOCK), schedule.plan.shape)
    inside, touched = (min(float(_count(shape)), float(np.prod(n)) / density) for n in (tile, reach))
    return touched, _COORDINATES * inside + _BLOCK_BYTES
