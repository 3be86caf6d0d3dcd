"""Lay out the two charts of the report: seconds per stage, and time against agreement.

Coordinates are SVG pixels, x to the right and y downwards; the templates only draw these shapes.
"""

from __future__ import annotations

import dataclasses
import math

from gcis_runtime.latency.engine_run import STAGES
from gcis_runtime.latency.record import LatencyRecord

WIDTH = 860
COLORS = {
    "read": "#56b4e9",
    "preprocess": "#e69f00",
    "network": "#0072b2",
    "blend": "#009e73",
    "restore": "#cc79a7",
    "write": "#999999",
}
_ENGINES = {"onnx": "#d55e00", "openvino": "#0072b2", "trt": "#009e73", "trt-rtx": "#009e73"}
_LEFT, _TOP, _ROW, _BAR = 150.0, 44.0, 38.0, 24.0
_ACCURACY_HEIGHT = 380
_LINEAR = 10.0
"""Voxels per million up to which the vertical axis is linear; logarithmic above."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A rectangle, point or text of a chart.

    Attributes:
        x: Left edge of a rectangle, centre of a point, anchor of a text.
        y: Top edge, centre, or baseline.
        width: Width of a rectangle; 0 otherwise.
        color: Fill colour.
        text: Text; empty for shapes without one.
    """

    x: float
    y: float
    width: float = 0.0
    color: str = "#1c2733"
    text: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart that a template draws.

    Attributes:
        width: Width of the picture.
        height: Height of the picture.
        left: x of the vertical axis.
        right: x of the right end.
        bottom: y of the horizontal axis.
        shapes: Bars or points.
        labels: Texts next to the shapes.
        x_ticks: Ticks of the horizontal axis.
        y_ticks: Ticks of the vertical axis, or names of the rows.
        legend: Entries of the legend, or lines of limits.
    """

    width: int
    height: float
    left: float
    right: float
    bottom: float
    shapes: tuple[Mark, ...]
    labels: tuple[Mark, ...]
    x_ticks: tuple[Mark, ...]
    y_ticks: tuple[Mark, ...]
    legend: tuple[Mark, ...]


def stage_chart(record: LatencyRecord) -> Chart:
    """Lay out the median seconds of each engine as one bar of stages, the fastest engine at the top."""
    rows = sorted(record.rows, key=lambda row: row.total.p50)
    right = WIDTH - 80.0
    scale = (right - _LEFT) / max(sum(row.stages[s].p50 for s in STAGES) for row in rows)
    shapes, labels, names = [], [], []
    for place, row in enumerate(rows):
        x, y = _LEFT, _TOP + place * _ROW
        for stage in STAGES:
            width = scale * row.stages[stage].p50
            shapes.append(Mark(x=x, y=y, width=width, color=COLORS[stage], text=stage))
            x += width
        middle = y + _BAR / 2 + 5
        labels.append(Mark(x=x + 8, y=middle, text=f"{row.total.p50:.2f} s"))
        names.append(Mark(x=_LEFT - 8, y=middle, text=row.name))
    bottom = _TOP + len(rows) * _ROW
    step = _step((right - _LEFT) / scale)
    count = int((right - _LEFT) / scale / step)
    ticks = [Mark(x=_LEFT + scale * step * n, y=bottom, text=f"{step * n:g}") for n in range(count + 1)]
    legend = [
        Mark(x=_LEFT + 110 * n, y=16, color=COLORS[stage], text=stage) for n, stage in enumerate(STAGES)
    ]
    return Chart(
        width=WIDTH, height=bottom + 48, left=_LEFT, right=right, bottom=bottom, shapes=tuple(shapes),
        labels=tuple(labels), x_ticks=tuple(ticks), y_ticks=tuple(names), legend=tuple(legend),
    )  # fmt: skip


def accuracy_chart(record: LatencyRecord) -> Chart:
    """Lay out seconds (logarithmic) against voxels per million whose label differs from the reference."""
    million = 1e6 / math.prod(record.subject.voxels)
    points = [
        (row.total.p50, million * row.voxels_unequal, row.name, _ENGINES.get(row.engine, "#555555"))
        for row in record.rows
    ]
    if record.from_pytorch:
        points.append((record.reference.whole_seconds, 0.0, record.reference.name, "#000000"))
    left, right, top, bottom = 90.0, WIDTH - 20.0, 20.0, _ACCURACY_HEIGHT - 60.0
    low, high = min(p[0] for p in points) / 1.6, 1.6 * max(p[0] for p in points)
    most = _symlog(max(2e4, 3 * max(p[1] for p in points)))

    def x_of(seconds: float) -> float:
        return left + (right - left) * math.log(seconds / low) / math.log(high / low)

    def y_of(voxels: float) -> float:
        return bottom - (bottom - top) * _symlog(voxels) / most

    shapes, labels = [], []
    for number, (seconds, unequal, name, color) in enumerate(sorted(points)):
        shapes.append(Mark(x=x_of(seconds), y=y_of(unequal), color=color))
        # Points near the axis lie side by side: their labels alternate in height.
        raised = 30 if number % 2 == 1 and unequal < _LINEAR else 14
        labels.append(Mark(x=x_of(seconds), y=y_of(unequal) - raised, text=name))
    seconds_ticks = [m * 10.0**e for e in range(-4, 6) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    voxel_ticks = [0.0] + [10.0**e for e in range(1, 7) if _symlog(10.0**e) <= most]
    limits = ((100.0, "99.99 % equal"), (5000.0, "99.5 % equal"))
    return Chart(
        width=WIDTH, height=_ACCURACY_HEIGHT, left=left, right=right, bottom=bottom, shapes=tuple(shapes),
        labels=tuple(labels),
        x_ticks=tuple(Mark(x=x_of(s), y=bottom, text=f"{s:g}") for s in seconds_ticks),
        y_ticks=tuple(Mark(x=left, y=y_of(v), text=f"{v:,.0f}") for v in voxel_ticks),
        legend=tuple(Mark(x=right, y=y_of(v), text=words) for v, words in limits),
    )  # fmt: skip


def _step(length: float) -> float:
    """Return a tick distance of 1, 2 or 5 times a power of ten that gives at most seven ticks."""
    power = 10.0 ** math.floor(math.log10(length / 7))
    return next(m * power for m in (1, 2, 5, 10) if length / (m * power) <= 7)


def _symlog(value: float) -> float:
    """Return 1 at `_LINEAR`, linear below and logarithmic (base 10) above."""
    return value / _LINEAR if value <= _LINEAR else 1 + math.log10(value / _LINEAR)
