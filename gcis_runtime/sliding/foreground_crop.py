"""The foreground rule: windows are laid on the box of what is not air, as training and MONAI's pipeline do.

Outside the box every mapped intensity is 0, as is the padding: windows are read from the uncropped grid, and
only where they lie differs. What none of them decides is background, as MONAI's inverse crop fills in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.grids.box import Box, positive_box, with_part
from gcis_runtime.grids.preprocess import NetworkInput
from gcis_runtime.sliding.plan import WindowPlan, plan_windows, weights_within
from gcis_runtime.spec import Foreground, PreprocessSpec, WindowSpec

_CHUNK_VOXELS = 1 << 20
_NOISE = 1e-3
"""HU: what rounding may add to values at the window's low end on a sheared grid, whose eight weights do not
add up to 1 exactly. Images that were clipped there would otherwise be body everywhere."""
_FAR = 1e9
"""Voxels: further than any grid reaches."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Windows as a pre-processing asks for them.

    Attributes:
        plan: Where they lie.
        weights: Blending weight of each voxel of a window, (X, Y, Z); zero where the crop cuts it off.
        report: What was cropped, ready for JSON; empty without a rule.
        warnings: What the user should know.
    """

    plan: WindowPlan
    weights: NDArray[np.float32]
    report: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def lay_windows(
    image: NetworkInput,
    spec: PreprocessSpec,
    window: WindowSpec,
    weights: NDArray[np.float32],
    *,
    crop: bool = True,
) -> Layout:
    """Lay windows on an image: on its foreground where the pre-processing has a rule, else on all of it.

    Args:
        image: The image on the network's grid.
        spec: Its pre-processing.
        window: The sliding window.
        weights: Blending weight of each voxel of a window, (X, Y, Z).
        crop: Follow the rule; else windows are laid otherwise than in training, which a warning says.
    """
    everything = plan_windows(image.transform.shape, window)
    rule = spec.crop
    if rule is None:
        return Layout(plan=everything, weights=weights)
    if not crop:
        warning = "windows lie on the whole image: the network was trained on images without the air around"
        return Layout(plan=everything, weights=weights, warnings=(warning,))
    box = foreground_box(image, rule)
    report: dict[str, Any] = {"margin": rule.margin, "grid": list(image.transform.shape)}
    warnings: tuple[str, ...] = ()
    if box is None:
        plan = replace(everything, starts=())
        warnings = (f"nothing lies above {spec.intensity_window[0]:g} HU: all is background",)
    else:
        plan = plan_windows(image.transform.shape, window, within=box)
        weights = weights_within(weights, plan, box)
    report["box"] = None if box is None else [[part.start, part.stop] for part in box]
    report["windows_of_whole_grid"] = len(everything.starts)
    report["windows_saved"] = len(everything.starts) - len(plan.starts)
    return Layout(plan=plan, weights=weights, report=report, warnings=warnings)


def foreground_box(image: NetworkInput, rule: Foreground) -> Box | None:
    """Return the box of the network's grid that holds every intensity above 0, grown by the rule's margin.

    The box of MONAI's `CropForeground(margin=rule.margin, allow_smaller=True)`; None where nothing is above
    0, of which MONAI makes an empty one. Only planes outside the box and six of its own are computed.
    """
    grid, (low, high) = image.transform.to_network, image.window
    least = 0.0 if grid is None or grid.separable else _NOISE / (high - low)
    box = _reach(image)
    for axis in (2, 1, 0):  # planes that lie together in a file's memory first
        box = None if box is None else _peeled(image, box, axis, least)
    if box is None:
        return None
    x, y, z = (
        slice(max(part.start - rule.margin, 0), min(part.stop + rule.margin, n))
        for part, n in zip(box, image.transform.shape, strict=True)
    )
    return x, y, z


def _reach(image: NetworkInput) -> Box | None:
    """Return a box of the network's grid outside which every intensity is 0; None where all are.

    What is interpolated between values that become 0 becomes 0.
    """
    source = image.transform.oriented(image.source)
    box = _box_above(source, np.float32(image.window[0]))
    if box is None:
        return None
    # Beyond the file's border its last voxels go on.
    low = [part.start - 1.0 if part.start else -_FAR for part in box]
    high = [float(part.stop) if part.stop < n else _FAR for part, n in zip(box, source.shape, strict=True)]
    first, last = image.transform.around(low, high)
    x, y, z = (slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
    return x, y, z


def _box_above(array: NDArray[Any], limit: np.float32) -> Box | None:
    """Return the box of what is larger than a limit, a few planes at a time."""
    found: list[Box] = []
    axis = int(np.argmax(np.abs(array.strides)))
    for part in _chunks(array.shape[axis], array.size // array.shape[axis]):
        index: list[slice] = [slice(None)] * 3
        index[axis] = part
        box = positive_box(array[tuple(index)] > limit)
        if box is not None:
            along = slice(box[axis].start + part.start, box[axis].stop + part.start)
            found.append(with_part(box, axis, along))
    if not found:
        return None
    x, y, z = (slice(min(b[a].start for b in found), max(b[a].stop for b in found)) for a in range(3))
    return x, y, z


def _chunks(count: int, plane: int) -> Iterator[slice]:
    """Cut an axis into parts of about `_CHUNK_VOXELS`."""
    step = max(1, _CHUNK_VOXELS // plane)
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))


def _peeled(image: NetworkInput, box: Box, axis: int, least: float) -> Box | None:
    """Return a box without the planes on both sides along an axis that hold nothing above `least`."""

    def filled(plane: int) -> bool:
        return bool((image.box(with_part(box, axis, slice(plane, plane + 1))) > least).any())

    planes = range(box[axis].start, box[axis].stop)
    first = next(filter(filled, planes), None)
    if first is None:
        return None
    last = next(filter(filled, reversed(planes)))
    return with_part(box, axis, slice(first, last + 1))
