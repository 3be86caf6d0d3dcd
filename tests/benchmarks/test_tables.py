"""Test that the documents agree with the records, and that record names describe their content."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.records import RESULTS, newest
from gcis_runtime.latency.record_file import hardware


@pytest.mark.parametrize("document", tables.DOCUMENTS, ids=lambda path: path.name)
def test_a_document_agrees_with_the_records(document: Path) -> None:
    text = document.read_text()
    assert tables.blocks_of(text), "a document without a block"
    assert text.count("<!-- ") == 2 * len(tables.blocks_of(text)), "a marker without its other half"
    assert tables.render(text) == text, "run: python -m benchmarks tables"


def test_every_block_stands_in_a_document() -> None:
    shown = {name for document in tables.DOCUMENTS for name in tables.blocks_of(document.read_text())}
    assert shown == tables.BLOCKS.keys()


def test_a_changed_record_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("patients.json", "phantoms.json"):
        record = json.loads((tables.DEMO / name).read_text())
        record["prompts"]["mandible"]["mean"] = 0.123
        (tmp_path / name).write_text(json.dumps(record))
    monkeypatch.setattr(tables, "DEMO", tmp_path)
    assert "| mandible | 0.12 |" in tables.demo_table()
    assert tables.render(tables.README.read_text()) != tables.README.read_text()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_record_is_named_for_what_it_is(path: Path) -> None:
    record = json.loads(path.read_text())
    what, machine, day = path.stem.rsplit("_", 2)
    assert (record["what"], hardware(record)) == (what, machine)
    assert re.fullmatch(r"\d{8}", day)
    assert day >= record["environment"]["date"][:10].replace("-", ""), "measured after it was written"
    # A lent GPU machine has a copy of the files without their history.
    assert record["environment"]["commit"] or what.startswith("gpu")
    assert record["environment"]["packages"]


def test_the_newest_record_is_of_that_kind_alone(tmp_path: Path) -> None:
    for name in ("scale_a_20260102", "scale_b_20260101", "scale_up_a_20260103"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name}))
    assert newest("scale", tmp_path) == {"name": "scale_a_20260102"}
    assert newest("scale_up", tmp_path) == {"name": "scale_up_a_20260103"}
    with pytest.raises(FileNotFoundError, match="python -m benchmarks latency"):
        newest("latency", tmp_path)
