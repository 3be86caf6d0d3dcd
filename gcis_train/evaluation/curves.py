"""Draw the learning curves of a run from its TensorBoard log."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gcis_runtime.errors import DataError
from gcis_runtime.system.atomic_files import replacing

LOSS = "train/loss"
RATE = "train/learning_rate"
VALIDATION = "validation/"
MEAN = "validation/mean_dice"
_EVENTS = "events.out.tfevents.*"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """One scalar of a log: steps (N,) and values (N,), sorted by step."""

    steps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


def read_curves(run_dirs: Sequence[Path]) -> tuple[dict[str, Curve], tuple[int, ...]]:
    """Read the scalars of one run, or of several consecutive runs.

    Args:
        run_dirs: Run folders in order; the steps of a run continue from the last step of the run before.

    Returns:
        Curves by tag, and the step at which each further run begins.

    Raises:
        DataError: A folder has no TensorBoard log.
    """
    parts: dict[str, list[Curve]] = {}
    offset, begins = 0, []
    for run_dir in run_dirs:
        found = _read(log_folder(run_dir))
        if offset:
            begins.append(offset)
        for tag, curve in found.items():
            parts.setdefault(tag, []).append(Curve(steps=curve.steps + offset, values=curve.values))
        offset += max(int(curve.steps[-1]) for curve in found.values())
    joined = {
        tag: Curve(
            steps=np.concatenate([c.steps for c in curves]), values=np.concatenate([c.values for c in curves])
        )
        for tag, curves in parts.items()
    }
    return joined, tuple(begins)


def log_folder(run_dir: Path) -> Path:
    """Return the folder of the TensorBoard log of a run, or of the static stage of a warm start.

    Raises:
        DataError: The run has no log.
    """
    for folder in (run_dir / "tensorboard", run_dir / "static" / "tensorboard", run_dir):
        if any(folder.glob(_EVENTS)):
            return folder
    raise DataError(
        f"{run_dir} has no TensorBoard log",
        expected=f"a file tensorboard/{_EVENTS}",
        fix="Pass the --run-dir of a training run.",
    )


def _read(folder: Path) -> dict[str, Curve]:
    log = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # 0 keeps every step
    log.Reload()
    curves = {}
    for tag in log.Tags()["scalars"]:
        events = log.Scalars(tag)
        curves[tag] = Curve(
            steps=np.array([e.step for e in events]), values=np.array([e.value for e in events], np.float64)
        )
    if not curves:
        raise DataError(f"the TensorBoard log {folder} is empty", fix="Wait for the first training step.")
    return curves


def smoothed(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """Return the moving mean over the last `window` values (fewer at the start), ignoring NaN."""
    finite = np.isfinite(values)
    total = np.cumsum(np.where(finite, values, 0.0))
    count = np.cumsum(finite)
    total[window:] -= total[:-window].copy()
    count[window:] -= count[:-window].copy()
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def draw_curves(curves: dict[str, Curve], *, title: str, begins: Sequence[int] = ()) -> Figure:
    """Draw loss, Dice per prompt and learning rate in three panels with a common axis of steps.

    Args:
        curves: Scalars by tag; a panel without curves is labelled "not in the log".
        title: Title of the figure.
        begins: Steps at which a further run begins, marked by a vertical line.
    """
    figure = Figure(figsize=(10, 10), layout="constrained")
    FigureCanvasAgg(figure)
    loss, dice, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 4, 1.5))
    figure.suptitle(title)
    _draw_loss(loss, curves.get(LOSS))
    _draw_dice(dice, {t: c for t, c in curves.items() if t.startswith(VALIDATION)})
    if RATE in curves:
        rate.plot(curves[RATE].steps, curves[RATE].values, color="black", linewidth=1)
    else:
        _draw_missing(rate)
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    for axes in (loss, dice, rate):
        axes.grid(alpha=0.3)
        for step in begins:
            axes.axvline(step, color="grey", linestyle=":", linewidth=1)
    return figure


def _draw_loss(axes: Axes, curve: Curve | None) -> None:
    axes.set_ylabel("loss")
    if curve is None:
        _draw_missing(axes)
        return
    axes.plot(curve.steps, curve.values, color="tab:blue", alpha=0.25, linewidth=0.8, label="each step")
    window = max(1, len(curve.values) // 50)
    if window > 1:
        mean = smoothed(curve.values, window)
        axes.plot(curve.steps, mean, color="tab:blue", linewidth=1.5, label=f"mean of {window} steps")
    axes.legend()


def _draw_dice(axes: Axes, curves: dict[str, Curve]) -> None:
    axes.set_ylabel("validation Dice")
    axes.set_ylim(0, 1)
    if not curves:
        _draw_missing(axes)
        return
    for tag in sorted(curves, key=lambda tag: tag == MEAN):
        curve, name = curves[tag], tag.removeprefix(VALIDATION)
        style = {"color": "black", "linewidth": 2.5} if tag == MEAN else {"linewidth": 1.2}
        label = f"{'mean' if tag == MEAN else name}  {curve.values[-1]:.2f}"
        axes.plot(curve.steps, curve.values, marker="o", markersize=3, label=label, **style)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="last value")


def _draw_missing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not in the log", transform=axes.transAxes, ha="center", va="center", color="grey")


def write_curves(run_dirs: Sequence[Path], path: Path) -> dict[str, Curve]:
    """Read the log of one or more runs, write the figure as PNG, and return the curves.

    Raises:
        DataError: A folder has no TensorBoard log.
        OutputError: The file cannot be written.
    """
    curves, begins = read_curves(run_dirs)
    figure = draw_curves(curves, title=", ".join(folder.resolve().name for folder in run_dirs), begins=begins)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return curves
