"""Test that the planning tables agree with the records."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmarks.records import newest
from benchmarks.scale import tables as scale_tables
from benchmarks.scale.fleet import ASSUMPTIONS
from benchmarks.scale.measure import fits
from benchmarks.scale.plan import AXES


def test_the_committed_record_is_whole_and_its_lines_follow_from_its_rows() -> None:
    record = newest("scale")
    assert set(record["rows"]) == set(AXES)
    shapes = [tuple(row["shape"]) for row in record["rows"]["volume"]]
    assert shapes[0] == (64, 64, 64) and shapes[-1] == (512, 512, 800)
    for axis, rows in record["rows"].items():
        again = fits(axis, rows)
        for line, expected in zip(record["fits"][axis], again, strict=True):
            assert line["slope"] == pytest.approx(expected["slope"])
            assert line["intercept"] == pytest.approx(expected["intercept"])


def test_tables_show_a_changed_record(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {what: newest(what) for what in ("scale", "fleet", "peers-12-64", "peers-48-96", "counted")}
    changed: dict[str, Any] = copy.deepcopy(kept)
    monkeypatch.setattr(scale_tables, "newest", changed.__getitem__)
    changed["scale"]["fits"]["volume"][0]["slope"] = 123.0
    assert "| 123 | million voxels |" in scale_tables.scale_table()
    changed["fleet"]["per_image"][2]["cpu_seconds_of_start"] = 77.77
    assert "| 77.8 |" in scale_tables.fleet_table()
    for line in ASSUMPTIONS:
        assert f"- {line}" in scale_tables.fleet_table()
    changed["peers-12-64"]["rows"][0] = {"peer": "p", "unavailable": "not installed: x"}
    assert "not run: not installed: x" in scale_tables.peers_table()
    assert "no accuracy" in scale_tables.peers_table()
    changed["counted"]["counts"]["nodes, demo bundle"] = 4_321
    assert "| nodes, demo bundle | 4,321 | +2.0% |" in scale_tables.counted_table()
