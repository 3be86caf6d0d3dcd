"""Test that sums that exceed the memory limit are kept in a temporary file, with equal labels."""

from __future__ import annotations

import errno
import tempfile
from dataclasses import replace

import numpy as np
import pytest

from gcis_runtime import Volume
from gcis_runtime.errors import OutputError
from gcis_runtime.pipeline import footprint
from gcis_runtime.pipeline import forecast as forecast_module
from gcis_runtime.pipeline.forecast import choose_execution
from gcis_runtime.sliding import carry_over
from tests.support.bundles_and_images import smooth_ct
from tests.support.fake_session import threshold_segmenter
from tests.support.forecasting import engine_and_sizes

pytestmark = pytest.mark.usefixtures("own_home")


@pytest.fixture
def small_disk(monkeypatch):
    """Use a small staging buffer, so that a file saves memory for small sums, and simulate a disk."""
    monkeypatch.setattr(forecast_module, "resident_bytes", lambda: 100 << 20)
    monkeypatch.setattr(carry_over, "_file_system", lambda _: "ext4")
    monkeypatch.setattr(carry_over, "STAGED_BYTES", 1 << 18)
    monkeypatch.setattr(footprint, "STAGED_BYTES", 1 << 18)


@pytest.mark.usefixtures("small_disk")
def test_sums_wait_in_a_file_before_anything_is_given_up(monkeypatch, tmp_path):
    """Labels stay the same bit for bit; the file has no name and is deleted afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = []
    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **kw: made.append(real(**kw)) or made[-1])
    volume = Volume(array=smooth_ct((150, 100, 140)), affine=np.diag([2.4, 2.4, 2.4, 1.0]))
    ours = threshold_segmenter()
    ours.segment(volume)  # a first run's forecast guesses the engine's share
    free = ours.segment(volume, masks=True)
    assert not made
    tight = ours.segment(volume, masks=True, max_memory=free.forecast["host_bytes"] - 1)
    (file,) = made
    assert file.closed and {path.name for path in tmp_path.iterdir()} <= {"home"}
    (step,) = tight.steps
    assert "temporary file of" in step and tight.restore == "smooth"
    np.testing.assert_array_equal(tight.labels, free.labels)
    assert tight.forecast["host_bytes"] < free.forecast["host_bytes"]


@pytest.mark.usefixtures("small_disk")
def test_large_sums_wait_in_a_file_by_themselves(monkeypatch):
    engine, sizes, way = engine_and_sizes()
    assert not choose_execution(engine, sizes, way, allowed=None)[0].on_disk
    monkeypatch.setattr(forecast_module, "_IN_MEMORY", 1 << 16)
    chosen, forecast = choose_execution(engine, sizes, way, allowed=None)
    assert chosen == replace(way, on_disk=True) and forecast.steps == ()
    assert forecast.file_bytes > 1 << 16 and " in a temporary file" in forecast.text
    monkeypatch.setattr(forecast_module, "room_for_file", lambda _: "no disk")
    assert choose_execution(engine, sizes, way, allowed=None)[0] == way
    monkeypatch.setattr(forecast_module, "room_for_file", lambda _: None)
    assert choose_execution(engine, sizes, way, allowed=1 << 40)[0] == way


@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_fills_up_is_one_clear_error(monkeypatch):
    volume = Volume(array=smooth_ct((150, 100, 140)), affine=np.diag([2.4, 2.4, 2.4, 1.0]))
    ours = threshold_segmenter()
    ours.segment(volume)
    allowed = ours.segment(volume).forecast["host_bytes"] - 1

    class Full:
        closed = False

        def seek(self, where):
            return where

        def write(self, part):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            self.closed = True

    full = Full()
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    with pytest.raises(OutputError, match=r"kept in a file; received No space left.*TMPDIR"):
        ours.segment(volume, max_memory=allowed)
    assert full.closed
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: (_ for _ in ()).throw(OSError(13, "denied")))
    with pytest.raises(OutputError, match="Permission denied"):
        ours.segment(volume, max_memory=allowed)
