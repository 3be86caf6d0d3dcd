"""Test that a damaged small file is ignored with a note, and that only a newer version is an error."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from gcis_runtime.errors import OutputError
from gcis_runtime.pipeline import calibration
from gcis_runtime.pipeline.calibration import Calibration, Measurement
from gcis_runtime.system.records import MOST_BYTES, MOST_LEVELS, read_record


class Note(msgspec.Struct):
    name: str
    number: float = 0.0
    more: list[object] = []


def test_a_record_is_read_and_a_missing_one_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"name": "[[[", "number": 1}')
    assert read_record(tmp_path / "a.json", Note).value == Note(name="[[[", number=1)
    assert read_record(tmp_path / "b.json", Note).value is None
    assert read_record(tmp_path / "b.json", Note).note is None


DAMAGED = {
    "not UTF-8": b'{"name": "\xff"}',
    "not UTF-8 where no text is decoded": b'{"name": "a", "unknown": "\xff"}',
    "deep": b'{"name": "a", "more": ' + b"[" * 200_000,
    "deep and complete": b'{"name": "a", "more": ' + b"[" * 900 + b"]" * 900 + b"}",
    "huge number": b'{"name": "a", "number": 1e99999}',
    "huge integer": b'{"name": "a", "number": 1' + b"0" * 5000 + b"}",
    "another type": b'{"name": 1}',
    "cut": b'{"name": "a"',
    "empty": b"",
    "large": b'{"name": "' + b"a" * MOST_BYTES + b'"}',
    "terminal escape": b"\x1b]0;owned\x07",
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_ignored_with_a_note(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a\x1b[31m.json"
    path.write_bytes(DAMAGED[case])
    found = read_record(path, Note)
    assert found.value is None
    assert found.note and "is ignored" in found.note and found.note.isprintable()


def test_text_with_brackets_is_not_deep(tmp_path: Path) -> None:
    text = '\\"' + "[{" * MOST_LEVELS
    (tmp_path / "a.json").write_text('{"name": "' + text + '"}')
    assert read_record(tmp_path / "a.json", Note).value is not None


def test_a_file_of_a_newer_version_is_refused_where_it_must_not_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"schema": 3, "name": "a", "number": 1}')
    assert (
        read_record(path, Note, newest=3).value == read_record(path, Note).value == Note(name="a", number=1)
    )
    with pytest.raises(OutputError, match=r"written by a newer gcis.*version 3.*at most version 2"):
        read_record(path, Note, newest=2)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    assert "is ignored" in str(read_record(link, Note, newest=2).note), "a link is not followed"


RUN = Measurement(window_seconds=1.0, blend_seconds=0.1, voxel_seconds=1e-8, run_bytes=10)


def fuzz_calibration(count: int) -> None:
    """Mutate a calibration file; whatever is read must be finite, and forecasts and updates must not fail."""
    key = {"graph": "a", "engine": "b"}
    calibration.record(key, RUN)
    (path,) = calibration._file(key).parent.glob("*.json")
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 6))):
            at = rng.randrange(len(data))
            if rng.random() < 0.5:
                data[at : at + rng.choice((1, 8))] = rng.choice((b"", b"9" * 30, b"-", b"e999", b"\xff"))
            else:
                data[at] = rng.randrange(256)
        path.write_bytes(data)
        found = calibration.find(key)
        assert found is None or (isinstance(found, Calibration) and found.is_plausible)


def test_mutated_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCIS_HOME", str(tmp_path))
    fuzz_calibration(300)


@pytest.mark.slow
def test_ten_thousand_mutated_calibrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCIS_HOME", str(tmp_path))
    fuzz_calibration(10_000)
