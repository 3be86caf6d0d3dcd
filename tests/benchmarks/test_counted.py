"""Test counted work: current counts equal the last record, and a changed record is detected."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.cli import main
from benchmarks.counted import measure as counted
from benchmarks.counted.run import allocated, stream, volume
from gcis_runtime.errors import OutputError

RENEW = "renew the record: python -m benchmarks counted"


@pytest.fixture(scope="module")
def today() -> dict[str, float]:
    """Return the counts that need neither valgrind nor an export; tests/export compares the others."""
    return counted.quick_counts()


def test_no_more_work_than_in_the_last_record(today: dict[str, float]) -> None:
    then = {n: v for n, v in counted.last_record()["counts"].items() if "seeded export" not in n}
    found = counted.compare(today, then)
    costs = [d.text for d in found if d.verdict in ("worse", "gone")]
    assert not costs, f"{costs}: find out why; where it is wanted, {RENEW}"
    for difference in found:
        warnings.warn(f"{difference.text}: {RENEW}", stacklevel=1)


def test_a_doctored_record_is_seen(today: dict[str, float]) -> None:
    """A record whose count is lower by twice the tolerance makes the current count a regression."""
    assert {name.split(",")[0].split(" ")[0] for name in today} == set(counted.TOLERANCES) - {"instructions"}
    for name, value in today.items():
        allowed = counted.TOLERANCES[name.split(",")[0].split(" ")[0]]
        for factor, verdict in ((1 + 2 * allowed + 0.01, "better"), (1 / (1 + 2 * allowed + 0.01), "worse")):
            (difference,) = counted.compare(today, today | {name: value * factor})
            assert (difference.name, difference.verdict) == (name, verdict)
            assert name in difference.text and "in the record" in difference.text
    (gone,) = counted.compare({}, {"windows, x": 1})
    (new,) = counted.compare({"windows, x": 1}, {})
    assert (gone.verdict, new.verdict) == ("gone", "new")
    assert counted.compare(today, today) == []


def _doctored(folder: Path, **changes: Any) -> Path:
    record = counted.last_record()
    for name, factor in changes.pop("counts", {}).items():
        record["counts"][name] *= factor
    path = folder / "counted_machine_20200101.json"
    path.write_text(json.dumps(record | changes))
    return folder


def test_the_command_ends_with_2_on_more_work(
    today: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded = {n: v for n, v in counted.last_record()["counts"].items() if "seeded export" in n}
    monkeypatch.setattr(counted, "counts", lambda: today | seeded)
    monkeypatch.setattr(counted, "published", lambda: ({}, []))
    monkeypatch.setattr(counted, "instructions", lambda: None)
    name = "nodes, demo bundle"
    folder = _doctored(tmp_path, counts={name: 0.5})
    done = CliRunner().invoke(main, ["counted", "--check", "-o", str(folder)])
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert f"more work than in the record; received {name}: worse" in done.output
    done = CliRunner().invoke(main, ["counted", "--check", "-o", str(_doctored(tmp_path, counts={name: 2}))])
    assert done.exit_code == 0 and "renew it with python -m benchmarks counted" in done.output
    assert list(tmp_path.iterdir()) == [tmp_path / "counted_machine_20200101.json"]


def test_instructions_are_compared_where_the_builds_are_the_same(
    today: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = {"python": "3", "numpy": "2", "machine": "m"}
    count = {"instructions, streaming run": 1_000_000, "with": builds}
    monkeypatch.setattr(counted, "counts", lambda: counted.last_record()["counts"])
    monkeypatch.setattr(counted, "published", lambda: ({}, []))
    monkeypatch.setattr(counted, "instructions", lambda: count)
    for then, code in ((1_000_000, 0), (900_000, 2)):
        folder = _doctored(tmp_path, instructions=count | {"instructions, streaming run": then})
        assert CliRunner().invoke(main, ["counted", "--check", "-o", str(folder)]).exit_code == code
    other = count | {"instructions, streaming run": 1, "with": builds | {"numpy": "3"}}
    done = CliRunner().invoke(
        main, ["counted", "--check", "-o", str(_doctored(tmp_path, instructions=other))]
    )
    assert done.exit_code == 0 and "not compared" in done.output


def test_the_newest_record_is_taken_and_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no record of counted work"):
        counted.last_record(tmp_path)
    for name, value in (("counted_zebra_20250101", 1), ("counted_ant_20260101", 2)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"counts": value}))
    assert counted.last_record(tmp_path)["counts"] == 2


def test_the_streaming_run_computes_what_it_says() -> None:
    done = stream(volume())
    assert done.windows == 8 and done.reused == 0
    assert 50_000 < done.labelled < 80_000  # three blocks of 16 x 40 x 40, rounded off by interpolation
    assert allocated() > 3 * 64**3 * 4  # the margins of a window at the very least
