"""Test that the runtime produces the vectors of `docs/contract/`, and that the format document names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.contract_vectors import FOLDER, INDEX, vectors

DOCUMENT = FOLDER.parent / "bundle_format.md"
TOLERANCE = {"float32": 5e-6}
"""Results of exponentials and of linear algebra may differ between processors in the last bits."""


def close(found: Any, expected: Any) -> bool:
    """Return whether two JSON values are equal, numbers up to 1e-9."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[k], v) for k, v in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, float):
        return abs(found - expected) <= 1e-9
    return bool(found == expected)


def arrays(value: Any) -> list[dict[str, Any]]:
    """Return the entries of all arrays in a JSON value."""
    if isinstance(value, list):
        return [entry for part in value for entry in arrays(part)]
    if not isinstance(value, dict):
        return []
    return [value] if "file" in value else [entry for part in value.values() for entry in arrays(part)]


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    return vectors()


@pytest.fixture(scope="module")
def index() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / INDEX).read_text())
    return found


def test_the_runtime_produces_the_vectors(made, index):
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(made)
    assert close(json.loads(made[INDEX]), index)
    assert not close(json.loads(made[INDEX]) | {"version": 2}, index), "a difference is seen"
    for entry in arrays(index):
        dtype = np.dtype(entry["type"]).newbyteorder("<")
        stored = np.frombuffer((FOLDER / entry["file"]).read_bytes(), dtype=dtype)
        assert stored.size == np.prod(entry["shape"]), entry
        np.testing.assert_allclose(
            np.frombuffer(made[entry["file"]], dtype=dtype),
            stored,
            rtol=0,
            atol=TOLERANCE.get(entry["type"], 0),
            err_msg=entry["file"],
        )


def test_headers_of_label_maps_are_equal_to_the_last_byte(made, index):
    for case in index["nifti"]:
        for name in (case["image"], case["label"]):
            assert (FOLDER / name).read_bytes() == made[name]


def test_the_vectors_distinguish_the_methods(index):
    """A case in which two methods agree would not test either."""
    by_name = {case["preprocess"]: case for case in index["restore"]}

    def read(entry: dict[str, Any]) -> bytes:
        return (FOLDER / entry["file"]).read_bytes()

    assert all(read(by_name[n]["smooth"]) != read(by_name[n]["nearest"]) for n in ("oblique", "sheared"))
    assert read(by_name["same"]["smooth"]) == read(by_name["same"]["nearest"])
    assert len(index["segment"][0]["starts"]) > 1


def test_the_folder_is_small_and_the_document_names_every_stage(index):
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 400_000
    text = DOCUMENT.read_text()
    for stage, cases in index.items():
        if isinstance(cases, list):
            assert f"`{stage}`" in text, f"{DOCUMENT.name} does not describe the vectors of {stage!r}"
            for field in {key for case in cases for key in case}:
                assert f"`{field}`" in text, f"{DOCUMENT.name} does not describe {stage}.{field}"
    named = {Path(str(entry["file"])).name for entry in arrays(index)} | {INDEX}
    named |= {case[key] for case in index["nifti"] for key in ("image", "label")}
    assert named == {path.name for path in FOLDER.iterdir()}
