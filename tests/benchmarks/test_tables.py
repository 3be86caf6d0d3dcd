"""The README says what the records say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import tables


def test_the_readme_agrees_with_the_records() -> None:
    text = tables.README.read_text()
    assert tables.render(text) == text, "run: python -m benchmarks tables"


def test_a_changed_record_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("patients.json", "phantoms.json"):
        record = json.loads((tables.DEMO / name).read_text())
        record["prompts"]["mandible"]["mean"] = 0.123
        (tmp_path / name).write_text(json.dumps(record))
    monkeypatch.setattr(tables, "DEMO", tmp_path)
    assert "| mandible | 0.12 |" in tables.demo_table()
    assert tables.render(tables.README.read_text()) != tables.README.read_text()
