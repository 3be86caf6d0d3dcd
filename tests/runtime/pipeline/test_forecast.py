"""Test forecasts of memory and time; a plan that exceeds the limit is reduced step by step or refused."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from gcis_runtime.errors import MemoryLimitError
from gcis_runtime.pipeline import calibration
from gcis_runtime.pipeline import forecast as forecast_module
from gcis_runtime.pipeline.forecast import choose_execution
from gcis_runtime.system.memory import bytes_text
from tests.support import fake_cuda
from tests.support.forecasting import RUN, engine_and_sizes
from tests.support.gpu_blending import (
    Session,
)

pytestmark = pytest.mark.usefixtures("own_home")


def test_the_slab_axis_turns_before_labels_change_and_every_step_is_reported(monkeypatch):
    monkeypatch.setattr(forecast_module, "resident_bytes", lambda: 100 << 20)
    monkeypatch.setattr(forecast_module, "room_for_file", lambda _: "no disk")
    engine, sizes, way = engine_and_sizes(spacing=(1.2, 1.2, 1.2), shape=(480, 360, 336))
    same, most = choose_execution(engine, sizes, way, allowed=None)
    assert same is way and most.steps == () and way.plan.axis == 2
    turned, less = choose_execution(engine, sizes, way, allowed=most.host_bytes - 1)
    assert (turned.restore, turned.plan.axis) == ("smooth", 0) and len(less.steps) == 1
    assert "slabs along X" in less.steps[0] and bytes_text(less.host_bytes) in less.steps[0]
    assert sorted(turned.plan.starts) == sorted(way.plan.starts)
    nearest, least = choose_execution(engine, sizes, way, allowed=less.host_bytes - 1)
    assert nearest.restore == "nearest" and len(least.steps) == 2
    assert least.host_bytes < less.host_bytes < most.host_bytes
    refused = r"after slabs.*nearest.*no temporary file.*: no disk.*--max-memory \d+M"
    with pytest.raises(MemoryLimitError, match=refused):
        choose_execution(engine, sizes, way, allowed=least.host_bytes // 2)


def test_no_step_replaces_the_published_way_back(monkeypatch):
    monkeypatch.setattr(forecast_module, "resident_bytes", lambda: 100 << 20)
    monkeypatch.setattr(forecast_module, "room_for_file", lambda _: "no disk")
    engine, sizes, way = engine_and_sizes(spacing=(1.2, 1.2, 1.2), shape=(480, 360, 336))
    published = replace(way, restore="published")
    _, most = choose_execution(engine, sizes, published, allowed=None)
    turned, less = choose_execution(engine, sizes, published, allowed=most.host_bytes - 1)
    assert (turned.restore, turned.plan.axis, len(less.steps)) == ("published", 0, 1)
    _, looked_up = choose_execution(engine, sizes, replace(way, restore="nearest"), allowed=None)
    assert most.host_bytes == looked_up.host_bytes
    with pytest.raises(MemoryLimitError):
        choose_execution(engine, sizes, published, allowed=less.host_bytes - 1)


def test_time_is_that_of_windows_and_of_voxels():
    engine, sizes, way = engine_and_sizes()
    calibration.record(engine.key(), RUN)
    _, forecast = choose_execution(engine, sizes, way, allowed=None)
    assert forecast.seconds == pytest.approx(len(way.plan.starts) * 2.5 + 120 * 64 * 90 * 1e-6)
    assert forecast.runs == 1
    calibration.record(engine.key(), msgspec.structs.replace(RUN, run_bytes=1 << 30))
    _, more = choose_execution(engine, sizes, way, allowed=None)
    assert more.host_bytes - forecast.host_bytes == pytest.approx(1 << 30, rel=0.05)


@pytest.mark.parametrize("restore", ["smooth", "nearest", "published"])
def test_on_a_gpu_its_memory_is_forecast_too(restore):
    """The memory of blending is exact; that of the engine is estimated, then measured."""
    engine, sizes, way = engine_and_sizes(spacing=(1.5, 1.5, 1.5))
    _, on_cpu = choose_execution(engine, sizes, replace(way, restore=restore), allowed=None)
    assert on_cpu.device_bytes is None
    engine._session = Session(fake_cuda.FakeDriver(), (64, 64, 64))
    _, guessed = choose_execution(engine, sizes, replace(way, restore=restore), allowed=None)
    assert guessed.device_bytes > 64**3 * 4 * 4
    calibration.record(engine.key(), msgspec.structs.replace(RUN, device_bytes=5 << 30))
    _, known = choose_execution(engine, sizes, replace(way, restore=restore), allowed=None)
    assert known.device_bytes - guessed.device_bytes == pytest.approx(5 << 30, rel=0.05)
    assert "GiB of GPU memory" in known.text
