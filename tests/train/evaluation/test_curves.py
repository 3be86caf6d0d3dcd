"""Test that the drawn learning curves equal the log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from gcis_runtime.errors import DataError
from gcis_train.cli.main import main
from gcis_train.evaluation.curves import LOSS, MEAN, RATE, draw_curves, read_curves, smoothed


def write_log(run_dir: Path, *, steps: int, rate: bool = True) -> None:
    with SummaryWriter(run_dir / "tensorboard") as writer:
        for step in range(1, steps + 1):
            writer.add_scalar(LOSS, 1 / step, step)
            if rate:
                writer.add_scalar(RATE, 1e-4 * step, step)
        for step in (steps // 2, steps):
            for name, value in (("cord", 0.4), ("larynx", 0.6), ("mean_dice", 0.5)):
                writer.add_scalar(f"validation/{name}", value, step)


def test_runs_that_followed_one_another_are_one_curve(tmp_path: Path) -> None:
    write_log(tmp_path / "first" / "static", steps=20)
    write_log(tmp_path / "second", steps=10)
    curves, begins = read_curves([tmp_path / "first", tmp_path / "second"])
    assert begins == (20,)
    assert curves[LOSS].steps.tolist() == list(range(1, 31))
    assert curves[LOSS].values[20] == pytest.approx(1.0)
    assert curves["validation/cord"].steps.tolist() == [10, 20, 25, 30]


def test_every_curve_is_in_the_picture(tmp_path: Path) -> None:
    write_log(tmp_path / "run", steps=200)
    curves, _ = read_curves([tmp_path / "run"])
    loss, dice, rate = draw_curves(curves, title="run").axes
    assert loss.lines[0].get_ydata() == pytest.approx(curves[LOSS].values)
    labels = [text.get_text() for text in dice.get_legend().get_texts()]
    assert labels == ["cord  0.40", "larynx  0.60", "mean  0.50"]
    assert rate.lines[0].get_ydata() == pytest.approx(curves[RATE].values)
    del curves[RATE], curves[MEAN], curves["validation/cord"], curves["validation/larynx"]
    _, dice, rate = draw_curves(curves, title="run").axes
    assert [axes.texts[0].get_text() for axes in (dice, rate)] == ["not in the log"] * 2


def test_the_mean_skips_what_is_not_finite() -> None:
    values = np.array([np.nan, 2.0, 4.0, np.inf, 8.0])
    np.testing.assert_array_equal(smoothed(values, 2), [np.nan, 2, 3, 4, 8])


def test_the_command_writes_a_png_or_one_line(tmp_path: Path) -> None:
    write_log(tmp_path / "run", steps=4, rate=False)
    out = tmp_path / "curves.png"
    done = CliRunner().invoke(main, ["curves", str(tmp_path / "run"), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "4 steps, last loss 0.2500" in done.output
    with Image.open(out) as picture:
        assert picture.size[0] > 800
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none has no TensorBoard log"):
        read_curves([tmp_path / "none"])
    refused = CliRunner().invoke(main, ["curves", str(tmp_path / "none"), "-o", str(tmp_path / "x.png")])
    assert refused.exit_code == 2 and refused.output.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


def test_steps_that_a_resumed_run_makes_again_are_drawn_once(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "tensorboard") as writer:
        for step in range(1, 11):
            writer.add_scalar(LOSS, 1.0, step)
    with SummaryWriter(tmp_path / "tensorboard", purge_step=6, filename_suffix=".b") as writer:
        for step in range(6, 13):
            writer.add_scalar(LOSS, 2.0, step)
    curves, _ = read_curves([tmp_path])
    assert curves[LOSS].steps.tolist() == list(range(1, 13))
    assert curves[LOSS].values.tolist() == [1.0] * 5 + [2.0] * 7
