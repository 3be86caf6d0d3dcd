"""Forecast the memory of a case from the header of its image, before an engine is open.

The forecast of an open engine (`pipeline.forecast`) is more exact. This one only has to select a node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcis_runtime.bundles.bundle import Bundle, select_labels
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.grids.grid_transform import plan_grid
from gcis_runtime.images.files import read_grid, voxel_bytes
from gcis_runtime.images.grid import Grid
from gcis_runtime.pipeline.footprint import RequestedOutputs, activations, host_footprint
from gcis_runtime.pipeline.memory_limit import INTERPRETER_BYTES
from gcis_runtime.runs.executor import Model
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outputs import Job
from gcis_runtime.sliding.plan import plan_windows, with_slab_axis

_SLICE = 512
"""Rows and columns that are assumed for a DICOM series, whose headers are read with its voxels."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Memory of a case in bytes.

    Attributes:
        usual: Memory with the requested options.
        least: Memory after the steps that a worker takes if it has less: unfinished sums in a temporary file,
            the best axis of slabs, and labels of the nearest voxel.
    """

    usual: int
    least: int


def needs_of(job: Job, model: Model, options: RunOptions, *, depth: int) -> Needs:
    """Return the memory of a case in a worker that holds `depth` cases.

    The whole image is assumed: regions and crops need less.

    Raises:
        ImageError: The header cannot be read.
    """
    if (limit := options.segment.max_memory) is not None:
        return Needs(usual=limit, least=limit)  # a worker keeps this limit, or refuses the case
    manifest = model.bundle.manifest
    grid, voxels = _header(job)
    values = tuple(manifest.labels[c].value for c in select_labels(manifest, model.prompts))
    x, y, z = (int(n) for n in grid.shape)
    transform = plan_grid((x, y, z), grid.affine, manifest.preprocess)
    plan = plan_windows(transform.shape, manifest.window)
    segment = options.segment

    def footprint(*, least: bool) -> int:
        requested = RequestedOutputs(
            values=values, smooth=segment.restore == "smooth" and not least, masks=segment.masks,
            probabilities=segment.probabilities, post=not segment.raw,
        )  # fmt: skip
        plans = [with_slab_axis(plan, axis) for axis in range(3)] if least else [plan]
        found = [
            host_footprint(
                p, transform, (x, y, z), requested,
                graph_channels=manifest.output.shape[1], on_disk=least,
            )
            for p in plans
        ]  # fmt: skip
        return min(max(f.total, f.afterwards) for f in found)

    fixed = INTERPRETER_BYTES + _engine(model.bundle, model.engine) + voxels
    beside = (depth - 1) * (voxels + int(np.prod((x, y, z))))  # the next image, or the labels being written
    usual, least = (fixed + beside + footprint(least=less) for less in (False, True))
    return Needs(usual=usual, least=min(usual, least))  # small images gain nothing from the steps


def _header(job: Job) -> tuple[Grid, int]:
    """Return the grid of an image and the bytes of its voxels in memory."""
    if job.series is None:
        return read_grid(job.image), voxel_bytes(job.image)
    spacing = [float(part) for part in job.series.spacing.split(" ") if _is_number(part)] or [1.0]
    affine = np.diag([spacing[0], spacing[0], 1.0, 1.0])
    planes = max(1, job.series.slices)
    return Grid(shape=(_SLICE, _SLICE, planes), affine=affine), job.series.voxel_bytes


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def _engine(bundle: Bundle, engine: EngineOptions) -> int:
    """Return the memory of an engine: its graph twice, and its first runs."""
    graphs = [bundle.manifest.entry(graph.file).bytes for graph in bundle.manifest.graphs]
    weights = max(graphs, default=0)
    name = "onnx" if engine.engine == "auto" else engine.engine
    return 2 * weights + activations(bundle.manifest, weights=weights, engine=name, batch=engine.batch or 1)
