"""Place sliding windows and compute their blending weights as MONAI does, and cut windows from an image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.grids.box import Box, whole
from gcis_runtime.spec import Shape3, WindowSpec
from gcis_runtime.system.worker_threads import ALONE, Workers

_PREFER_Z = 1.5
"""Z is the slab axis unless another axis is longer by more than this factor."""
_PART_VOXELS = 1 << 20
"""Voxels of the image computed at a time, so that their memory is reused."""
MAX_WINDOWS = 1_000_000
"""Largest number of windows of a plan, which takes days; an overlap near 1 yields 100 times as many."""


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """Positions of windows on a grid that is padded to hold all of them.

    Attributes:
        shape: Shape of the unpadded grid (X, Y, Z).
        before: Voxels of padding before each axis.
        padded: Shape of the padded grid.
        patch_size: Shape of a window.
        axis: Slab axis: windows are ordered by their start along it, then along the other axes.
        starts: First index of each window on the padded grid. To skip windows, `dataclasses.replace` the
            tuple with a subset in the same order.
    """

    shape: Shape3
    before: Shape3
    padded: Shape3
    patch_size: Shape3
    axis: int
    starts: tuple[Shape3, ...]

    @property
    def across(self) -> tuple[int, int]:
        """The other two axes, `u` and `v`: windows of a slab are ordered along `u`, then along `v`."""
        u, v = (axis for axis in range(3) if axis != self.axis)
        return u, v

    @cached_property
    def covered(self) -> Box:
        """The box of the unpadded grid that the windows read; the whole grid if there are no windows."""
        if not self.starts:
            return whole(self.shape)
        firsts, lasts = np.min(self.starts, axis=0), np.max(self.starts, axis=0)
        x, y, z = (
            slice(max(int(first) - b, 0), min(int(last) + r - b, n))
            for first, last, r, b, n in zip(
                firsts, lasts, self.patch_size, self.before, self.shape, strict=True
            )
        )
        return x, y, z


def plan_windows(
    shape: Shape3, spec: WindowSpec, *, axis: int | None = None, within: Box | None = None
) -> WindowPlan:
    """Place windows as MONAI's `sliding_window_inference` does.

    Args:
        shape: Shape of the grid (X, Y, Z).
        spec: Window size and overlap.
        axis: Slab axis. None selects Z unless another axis is more than 1.5 times as long, in which case the
            longest axis is selected. Slabs are smallest along the longest axis; along Z, rows of windows and
            slabs of most files are contiguous in memory.
        within: Part of the grid on which windows are placed as if it were the whole grid. Windows extend
            beyond a part that is smaller than a window; see `weights_within`.

    Raises:
        ImageError: The plan would have more than `MAX_WINDOWS` windows.
    """
    part = whole(shape) if within is None else within
    sizes = [p.stop - p.start for p in part]
    laid = [max(n, r) for n, r in zip(sizes, spec.patch_size, strict=True)]
    firsts = [p.start - (m - n) // 2 for p, m, n in zip(part, laid, sizes, strict=True)]
    before = tuple(max(0, -first) for first in firsts)
    padded = tuple(max(n, first + m) + b for n, first, m, b in zip(shape, firsts, laid, before, strict=True))
    if axis is None:
        axis = 2 if padded[2] * _PREFER_Z >= max(padded) else int(np.argmax(padded))
    along = [
        [first + b + start for start in axis_starts(m, r, spec.overlap)]
        for first, b, m, r in zip(firsts, before, laid, spec.patch_size, strict=True)
    ]
    count = math.prod(map(len, along))
    if count > MAX_WINDOWS:
        raise ImageError(
            "the image needs too many windows",
            received=f"{count} windows of {spec.patch_size} voxels at overlap {spec.overlap:g} in {shape}",
            expected=f"at most {MAX_WINDOWS}",
            fix="Use a bundle with less overlap or a larger voxel size.",
        )
    plan = WindowPlan(
        shape=shape,
        before=(before[0], before[1], before[2]),
        padded=(padded[0], padded[1], padded[2]),
        patch_size=spec.patch_size,
        axis=axis,
        starts=tuple((x, y, z) for x in along[0] for y in along[1] for z in along[2]),
    )
    return with_slab_axis(plan, axis)


def with_slab_axis(plan: WindowPlan, axis: int) -> WindowPlan:
    """Return the same windows ordered in slabs along another axis."""
    return replace(plan, axis=axis, starts=tuple(sorted(plan.starts, key=lambda s: (s[axis], s))))


def axis_starts(length: int, size: int, overlap: float) -> list[int]:
    """Return the start indices of windows along one axis: a fixed step, with the last window moved back.

    Args:
        length: Voxels of the axis, at least `size`.
        size: Voxels of a window.
        overlap: Fraction of a window shared by consecutive windows.
    """
    if length == size:
        return [0]
    step = max(1, int(size * (1 - overlap)))
    count = math.ceil((length - size) / step) + 1
    return [min(i * step, length - size) for i in range(count)]


def window_weights(spec: WindowSpec) -> NDArray[np.float32]:
    """Return the blending weights of a window, (X, Y, Z), as MONAI's `compute_importance_map`.

    Gaussian weights are clamped from below at the larger of their minimum and 0.001.
    """
    if spec.blend == "constant":
        return np.ones(spec.patch_size, dtype=np.float32)
    profiles = []
    for size in spec.patch_size:
        x = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
        profiles.append(np.exp(x**2 / np.float32(-2 * (size * spec.sigma_scale) ** 2)))
    weights = profiles[0][:, None, None] * profiles[1][None, :, None] * profiles[2][None, None, :]
    floor = np.float32(max(float(weights.min()), 1e-3))
    return np.asarray(np.maximum(weights, floor), dtype=np.float32)


def weights_within(weights: NDArray[np.float32], plan: WindowPlan, within: Box) -> NDArray[np.float32]:
    """Return blending weights for windows that were placed on a part of the grid: zero outside the part.

    If the part is smaller than a window, every window extends beyond it by the same voxels, whose logits must
    not contribute. Otherwise, the weights are returned unchanged.

    Args:
        weights: (X, Y, Z) of a window.
        plan: Result of `plan_windows(..., within=within)`.
        within: The part of the grid.
    """
    inside: list[slice] = []
    for axis, (part, length) in enumerate(zip(within, plan.patch_size, strict=True)):
        first = part.start + plan.before[axis] - plan.starts[0][axis]
        size = part.stop - part.start
        inside.append(slice(first, first + size) if size < length else slice(0, length))
    index = tuple(inside)
    if weights[index].shape == weights.shape:
        return weights
    out = np.zeros_like(weights)
    out[index] = weights[index]
    return out


def pad_to_plan(array: NDArray[np.float32], plan: WindowPlan, value: float) -> NDArray[np.float32]:
    """Pad an array of `plan.shape` to `plan.padded` with `value`; no copy if the shapes are equal."""
    if plan.shape == plan.padded:
        return array
    out = np.full(plan.padded, value, dtype=np.float32)
    out[tuple(slice(b, b + n) for b, n in zip(plan.before, plan.shape, strict=True))] = array
    return out


class WindowReader:
    """Cut windows from an image of which one slab is held at a time. Call it with starts in plan order.

    Args:
        box: Function that computes a part of the unpadded grid, (X, Y, Z) float32.
        plan: The window plan.
        padding_value: Value outside the unpadded grid.
        workers: Threads that compute parts of a slab.
    """

    def __init__(
        self,
        box: Callable[[Box], NDArray[np.float32]],
        plan: WindowPlan,
        *,
        padding_value: float,
        workers: Workers = ALONE,
    ) -> None:
        self._box, self._plan, self._workers = box, plan, workers
        shape = tuple(plan.patch_size[a] if a == plan.axis else plan.padded[a] for a in range(3))
        self._slab = np.full(shape, padding_value, dtype=np.float32)
        self._padding = padding_value
        # One buffer for all windows: fresh memory costs page faults.
        self._window = np.empty(plan.patch_size, dtype=np.float32)
        self._first: int | None = None

    def __call__(self, start: Shape3) -> NDArray[np.float32]:
        """Return the content of a window, (1, 1, X, Y, Z) C-contiguous, valid until the next call.

        Args:
            start: First index of the window on the padded grid.
        """
        if start[self._plan.axis] != self._first:
            self._move(start[self._plan.axis])
        index = tuple(
            slice(None) if a == self._plan.axis else slice(start[a], start[a] + self._plan.patch_size[a])
            for a in range(3)
        )
        source, target = self._slab[index], self._window
        self._workers.share(len(target), lambda part: np.copyto(target[part], source[part]))
        return self._window[None, None]

    def _move(self, first: int) -> None:
        """Move the slab to plane `first` and compute only its new planes."""
        plan, axis = self._plan, self._plan.axis
        depth = plan.patch_size[axis]
        step = depth if self._first is None else first - self._first
        kept = max(0, depth - step) if step > 0 else 0
        advance(self._slab, axis, step, kept)
        tail = [slice(None)] * 3
        tail[axis] = slice(kept, None)
        out = self._slab[tuple(tail)]
        read_planes(self._box, plan, first + kept, out, padding_value=self._padding, workers=self._workers)
        self._first = first


def read_planes(
    box: Callable[[Box], NDArray[np.float32]],
    plan: WindowPlan,
    first: int,
    out: NDArray[np.float32],
    *,
    padding_value: float,
    workers: Workers = ALONE,
) -> None:
    """Compute planes of the padded image, as far as windows read them.

    Args:
        box: Function that computes a part of the unpadded grid, (X, Y, Z) float32.
        plan: The window plan.
        first: First plane along the slab axis of the padded grid.
        out: (X, Y, Z) output; its length along the slab axis is the number of planes. Voxels that no window
            reads are filled with `padding_value`.
        padding_value: Value outside the unpadded grid.
        workers: Threads that compute parts.
    """
    axis, (u, v) = plan.axis, plan.across
    offset = first - plan.before[axis]
    begin, stop = max(offset, 0), min(offset + out.shape[axis], plan.shape[axis])
    part = list(plan.covered)
    part[axis] = slice(begin, stop)
    if any(p.stop - p.start < n for p, n in zip(part, out.shape, strict=True)):
        out[...] = padding_value
    if begin >= stop:
        return
    target = [slice(p.start + b, p.stop + b) for p, b in zip(part, plan.before, strict=True)]
    target[axis] = slice(begin - offset, stop - offset)

    def fill(lines: slice) -> None:
        source, place = list(part), list(target)
        source[v] = slice(part[v].start + lines.start, part[v].start + lines.stop)
        place[v] = slice(target[v].start + lines.start, target[v].start + lines.stop)
        out[tuple(place)] = box((source[0], source[1], source[2]))

    # Along the second axis across: the lines of a plane of most files that a part reads are contiguous.
    lines, face = part[v].stop - part[v].start, (part[u].stop - part[u].start) * (stop - begin)
    workers.share(lines, fill, parts=lines * face // _PART_VOXELS)


def advance(buffer: NDArray[np.float32], axis: int, steps: int, keep: int) -> None:
    """Move planes `steps` to `steps + keep` of a buffer (X, Y, Z) to its front along `axis`, in place."""
    if not keep or not steps:
        return
    view = np.moveaxis(buffer, axis, 0)
    slowest = int(np.argmax(np.abs(view.strides)))
    if slowest == 0:  # plane by plane: source and target overlap, and NumPy would copy all of it
        for plane in range(keep):
            view[plane] = view[plane + steps]
        return
    for part in np.moveaxis(view, slowest, 0):  # in memory order: a plane across it touches every cache line
        part[:keep] = part[steps : steps + keep]
