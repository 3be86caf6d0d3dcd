"""Test that files of a newer gCIS are answered with the version that reads them."""

from __future__ import annotations

import json

import pytest

from gcis_runtime.bundles.manifest import decode
from gcis_runtime.errors import BundleError, OutputError
from gcis_runtime.schema_version import newer_version, read_head


def test_a_newer_bundle_names_the_version_that_wrote_it() -> None:
    data = json.dumps({"schema": "gcis-bundle", "schema_version": 99, "versions": {"gcis": "7.1"}, "new": 1})
    with pytest.raises(BundleError, match=r"version 99.*Install the gcis that wrote it \(7\.1\)"):
        decode(data.encode(), source="b.gcis")


@pytest.mark.parametrize("notes", [{}, {"provenance": {"gcis": 3}}, {"provenance": []}, {"versions": None}])
def test_a_newer_report_without_a_writer_is_still_answered(notes: dict[str, object]) -> None:
    head = read_head(json.dumps({"schema": 2} | notes).encode())
    assert head is not None
    error = newer_version("a_seg.json", head, 1, OutputError)
    assert "Install a newer gcis" in str(error)
    assert newer_version("a_seg.json", head, 2, OutputError) is None


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{", b'{"schema": 1.5}', b"[" * 100_000])
def test_other_data_has_no_head(data: bytes) -> None:
    assert read_head(data) is None
