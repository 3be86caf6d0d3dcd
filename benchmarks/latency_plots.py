"""Pictures of a latency record: what a CT's time goes into, and time against accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.engine_run import STAGES
from benchmarks.latency_record import LatencyRecord
from gcis_runtime.system.atomic_files import replacing

_COLORS = {
    "read": "#56b4e9",
    "preprocess": "#e69f00",
    "network": "#0072b2",
    "blend": "#009e73",
    "restore": "#cc79a7",
    "write": "#999999",
}
_ENGINES = {"onnx": "#d55e00", "openvino": "#0072b2", "trt": "#009e73", "trt-rtx": "#009e73"}


def draw_stages(record: LatencyRecord, path: Path) -> None:
    """Draw each engine's median seconds as one bar, a colour a stage, fastest at the top."""
    figure, axes = _figure(height=1.5 + 0.5 * len(record.rows))
    rows = sorted(record.rows, key=lambda row: -row.total.p50)
    left = [0.0] * len(rows)
    for stage in STAGES:
        seconds = [row.stages[stage].p50 for row in rows]
        axes.barh(range(len(rows)), seconds, left=left, color=_COLORS[stage], label=stage, height=0.62)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    for place, row in enumerate(rows):
        axes.text(left[place], place, f"  {row.total.p50:.2f} s", va="center", fontsize=10)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_xlim(0, 1.14 * max(left))
    axes.set_xlabel("seconds for one CT, the program being open (median)")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="upper center", ncol=len(STAGES), frameon=False, fontsize=9,
        handlelength=1.2, columnspacing=1.2,
    )  # fmt: skip
    figure.subplots_adjust(left=0.2, right=0.97, bottom=0.62 / figure.get_figheight() * 1.0,
                           top=1 - 0.42 / figure.get_figheight())  # fmt: skip
    _save(figure, path)


def draw_accuracy(record: LatencyRecord, path: Path) -> None:
    """Draw seconds against voxels in a million that get another label than PyTorch gives them."""
    figure, axes = _figure(height=3.9)
    voxels = 1
    for n in record.subject.voxels:
        voxels *= n
    points = [
        (row.total.p50, 1e6 * row.voxels_unequal / voxels, row.name, _ENGINES.get(row.engine, "#555555"))
        for row in record.rows
    ]
    points.append((record.reference.whole_seconds, 0.0, "PyTorch fp32, MONAI", "#000000"))
    for limit, words in ((100.0, "99.99 % equal"), (5000.0, "99.5 % equal")):
        axes.axhline(limit, color="#bbbbbb", linewidth=0.8, linestyle="--", zorder=0)
        axes.text(0.995, limit, words, transform=axes.get_yaxis_transform(), ha="right", va="bottom",
                  fontsize=8.5, color="#777777")  # fmt: skip
    for number, (seconds, unequal, name, color) in enumerate(sorted(points)):
        axes.plot(seconds, unequal, "o", color=color, markersize=8, clip_on=False, zorder=3)
        close = number % 2 == 1 and unequal < 10  # labels of points at the bottom take turns in height
        axes.annotate(
            name, (seconds, unequal), xytext=(0, 20 if close else 9), ha="center", fontsize=9,
            textcoords="offset points", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(0, max(2e4, 3 * max(p[1] for p in points)))
    times = [p[0] for p in points]
    axes.set_xlim(min(times) / 1.6, 1.6 * max(times))
    axes.set_xlabel("seconds for one CT (PyTorch: the whole process)")
    axes.set_ylabel("voxels in a million\nwith another label")
    axes.xaxis.set_major_locator(_ticks(min(times) / 1.6, 1.6 * max(times)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    figure.subplots_adjust(left=0.13, right=0.97, bottom=0.15, top=0.96)
    _save(figure, path)


def _ticks(low: float, high: float) -> Any:
    """Return a locator at 1, 2 and 5 of each power of ten in view."""
    from matplotlib.ticker import FixedLocator  # noqa: PLC0415 (as below)

    return FixedLocator([m * 10.0**e for e in range(-4, 6) for m in (1, 2, 5) if low <= m * 10.0**e <= high])


def _figure(*, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415 (a second, and only for pictures)

    figure = Figure(figsize=(8.6, height), dpi=110)
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "gCIS"})
