"""Map tiles of blended logits to labels on the native grid of the file, tile by tile.

A voxel of the file is labelled with the last tile that its interpolation depends on. With linear
interpolation, this tile holds its upper neighbours, so that only the last plane and the last line of earlier
tiles are kept. Nothing is computed where no logit is positive: interpolating between logits of at most zero
never yields a positive value, even when rounded. The label of a voxel does not depend on how the grid is
split into tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.choices import Restore
from gcis_runtime.grids.box import Box
from gcis_runtime.grids.corner_zoom import corner_index
from gcis_runtime.grids.grid_transform import GridTransform
from gcis_runtime.grids.resample import GridMap
from gcis_runtime.grids.samplers import AxisSampler, BlockSampler, Place
from gcis_runtime.sliding.accumulator import Tile
from gcis_runtime.sliding.blend import logits_to_labels
from gcis_runtime.sliding.label_sink import LabelSink
from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.sliding.probability import scaled, shifted
from gcis_runtime.spec import Shape3
from gcis_runtime.system.worker_threads import ALONE, Workers


class NativeGridMapper:
    """Convert tiles of logits to labels on the native grid, and put them into a sink.

    Args:
        plan: The window plan of the tiles.
        transform: Transform between the file grid and the network grid.
        values: Label value of each channel of the tiles.
        restore: `"smooth"` interpolates logits and then compares them, for smooth boundaries; `"nearest"`
            takes the label of the nearest network voxel; `"published"` takes that of the network voxel with
            the same index, stretched from corner to corner. All are the same if the volume was not resampled.
        sink: Destination of the labels.
        workers: Threads that compare logits.
    """

    def __init__(
        self,
        *,
        plan: WindowPlan,
        transform: GridTransform,
        values: tuple[int, ...],
        restore: Restore,
        sink: LabelSink,
        workers: Workers = ALONE,
    ) -> None:
        self._workers = workers
        self._plan, self._values, self._sink = plan, values, sink
        smooth = restore == "smooth" and transform.to_file is not None
        same = GridMap(matrix=np.eye(4), shape_in=plan.shape, shape_out=plan.shape)
        grid = transform.to_file or same
        self._sampler = _sampler(grid, smooth=smooth, published=restore == "published")
        self._border = _Border(plan, len(values)) if smooth else None

    def add(self, tile: Tile) -> None:
        """Process the next tile; tiles must be added in the order of `blend_tiles`."""
        inner = _unpadded(tile, self._plan)
        if inner is None:
            return
        if self._border is None:
            self._nearest(inner)
        else:
            self._smooth(inner, self._border)
            self._border.keep(inner)

    def add_labels(self, start: Shape3, labels: NDArray[np.unsignedinteger]) -> None:
        """Process labels instead of a tile of logits, for nearest-neighbour labels without masks.

        Args:
            start: First index on the padded grid.
            labels: (X, Y, Z) label values.
        """
        part = _inside(start, labels.shape, self._plan)
        if part is not None:
            start, index = part
            self._put(start, labels[index], self._sampler.places(start, labels[index].shape))

    def _nearest(self, tile: Tile) -> None:
        places = self._sampler.places(tile.start, tile.logits.shape[1:])
        if self._sink.wants_masks:
            for index, logit in enumerate(tile.logits):
                for place in places:
                    found = place.nearest(logit > 0, tile.start)
                    if found is not None:
                        self._sink.put_mask(index, *found)
        if self._sink.wants_probabilities:
            for index, logit in enumerate(tile.logits):
                probability = scaled(shifted(logit))
                for place in places:
                    found = place.nearest(probability, tile.start)
                    if found is not None:
                        self._sink.put_probability(index, *found)
        self._put(tile.start, self._labels(tile.logits), places)

    def _labels(self, logits: NDArray[np.float32]) -> NDArray[np.unsignedinteger]:
        """Return the labels (X, Y, Z) of logits (C, X, Y, Z); threads share the voxels along X."""
        labels = np.empty(logits.shape[1:], dtype=self._sink.labels.dtype)

        def compare(part: slice) -> None:
            labels[part] = logits_to_labels(logits[:, part], values=self._values, dtype=labels.dtype.type)

        self._workers.share(len(labels), compare)
        return labels

    def _put(self, start: Shape3, labels: NDArray[np.unsignedinteger], places: Iterable[Place]) -> None:
        for place in places:
            found = place.nearest(labels, start)
            if found is not None:
                self._sink.put(*found)

    def _smooth(self, tile: Tile, border: _Border) -> None:
        places = self._sampler.places(tile.start, tile.logits.shape[1:])
        canvases = [_Canvas(place.box, self._sink.labels.dtype) for place in places]
        for index, value in enumerate(self._values):
            if not places:
                continue
            if self._sink.wants_probabilities:
                self._smooth_probability(tile, border, index, places)
            if not border.any_positive(tile, index):
                continue
            logits, start = border.extended(tile, index)
            for place, canvas in zip(places, canvases, strict=True):
                found = place.linear(logits, start)
                if found is None:
                    continue
                canvas.compare(*found, value)
                if self._sink.wants_masks:
                    self._sink.put_mask(index, found[0], found[1] > 0)
        for canvas in canvases:
            if canvas.touched:
                self._sink.put(canvas.box, canvas.labels)

    def _smooth_probability(self, tile: Tile, border: _Border, index: int, places: Iterable[Place]) -> None:
        logits, start = border.extended(tile, index)
        values = shifted(logits)
        for place in places:
            found = place.linear(values, start)
            if found is not None:
                self._sink.put_probability(index, found[0], scaled(found[1]))


def _sampler(grid: GridMap, *, smooth: bool, published: bool) -> AxisSampler | BlockSampler:
    """Return the fastest sampler for a grid."""
    if published:
        pairs = zip(grid.shape_in, grid.shape_out, strict=True)
        return AxisSampler(grid, smooth=False, index=[corner_index(n, m) for n, m in pairs])
    by_axis = grid.separable and (smooth or not grid.noise_breaks_ties())
    return (AxisSampler if by_axis else BlockSampler)(grid, smooth=smooth)


class _Canvas:
    """Labels of a box of the file grid while channels are compared one after another."""

    def __init__(self, box: Box, dtype: np.dtype[np.unsignedinteger]) -> None:
        self.box, self.touched = box, False
        shape = tuple(part.stop - part.start for part in box)
        self.labels = np.zeros(shape, dtype=dtype)
        self._best = np.zeros(shape, dtype=np.float32)

    def compare(self, box: Box, logits: NDArray[np.float32], value: int) -> None:
        """Set the voxels of `box` to `value` where its logit is positive and the largest so far."""
        inner = tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(box, self.box, strict=True))
        best = self._best[inner]
        self.labels[inner][logits > best] = value
        np.maximum(best, logits, out=best)
        self.touched = True


class _Border:
    """Logits of earlier tiles next to the current tile: the plane before it and the line before it.

    Arrays are views ordered (channel, a, u, v) as in `accumulator`.
    """

    def __init__(self, plan: WindowPlan, channels: int) -> None:
        self._order = (plan.axis, *plan.across)
        u, v = plan.across
        self._plane = np.zeros((channels, plan.shape[u], plan.shape[v]), dtype=np.float32)
        self._line = np.zeros((channels, 0, plan.shape[v]), dtype=np.float32)
        self._corner = np.zeros((channels, plan.shape[v]), dtype=np.float32)

    def any_positive(self, tile: Tile, index: int) -> bool:
        """Return whether channel `index` has a positive logit in the tile or in the border before it."""
        lines = self._lines(tile)
        return bool(
            tile.logits[index].max() > 0
            or self._plane[index, lines].max() > 0
            or self._line[index].max(initial=0) > 0
            or self._corner[index].max() > 0
        )

    def extended(self, tile: Tile, index: int) -> tuple[NDArray[np.float32], tuple[int, ...]]:
        """Return channel `index` of the tile with its border, (X, Y, Z), and its first index."""
        a, u, _ = self._order
        before = [0, 0, 0]
        before[a], before[u] = int(tile.start[a] > 0), int(tile.start[u] > 0)
        shape = tuple(n + b for n, b in zip(tile.logits.shape[1:], before, strict=True))
        out = np.empty(shape, dtype=np.float32)
        view = out.transpose(self._order)
        plane, line = before[a], before[u]
        view[plane:, line:] = tile.logits[index].transpose(self._order)
        if plane:
            view[0, line:] = self._plane[index, self._lines(tile)]
        if line:
            view[plane:, 0] = self._line[index]
        if plane and line:
            view[0, 0] = self._corner[index]
        return out, tuple(s - b for s, b in zip(tile.start, before, strict=True))

    def keep(self, tile: Tile) -> None:
        """Store the last plane and the last line of the tile."""
        lines = self._lines(tile)
        view = tile.logits.transpose(0, *(axis + 1 for axis in self._order))
        self._corner = self._plane[
            :, lines.stop - 1
        ].copy()  # the line before the lines of the plane that is stored now
        if self._line.shape[1] != view.shape[1]:
            self._line = np.empty((len(view), view.shape[1], view.shape[3]), dtype=np.float32)
        self._line[...] = view[:, :, -1]
        self._plane[:, lines] = view[:, -1]

    def _lines(self, tile: Tile) -> slice:
        u = self._order[1]
        return slice(tile.start[u], tile.start[u] + tile.logits.shape[1 + u])


def _unpadded(tile: Tile, plan: WindowPlan) -> Tile | None:
    """Return the part of a tile inside the unpadded grid, in indices of that grid; None if it is empty."""
    part = _inside(tile.start, tile.logits.shape[1:], plan)
    return None if part is None else Tile(start=part[0], logits=tile.logits[:, *part[1]])


def _inside(start: Shape3, shape: Sequence[int], plan: WindowPlan) -> tuple[Shape3, Box] | None:
    """Return the part of a box of the padded grid that lies inside the unpadded grid, or None if it is empty.

    Returns:
        First index on the unpadded grid, and the part relative to the box.
    """
    first = [max(s, b) for s, b in zip(start, plan.before, strict=True)]
    stop = [min(s + n, b + m) for s, n, b, m in zip(start, shape, plan.before, plan.shape, strict=True)]
    if any(f >= s for f, s in zip(first, stop, strict=True)):
        return None
    i, j, k = (slice(f - t, s - t) for f, s, t in zip(first, stop, start, strict=True))
    x, y, z = (f - b for f, b in zip(first, plan.before, strict=True))
    return (x, y, z), (i, j, k)
