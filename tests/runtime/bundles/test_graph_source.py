"""Test that engines load a sealed copy of the graph that was hashed, and bytes where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gcis_runtime.bundles import bundle as bundles
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.errors import BundleError

needs_memory_files = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no memory files")


@needs_memory_files
def test_the_copy_is_the_graph_and_cannot_be_changed(make_bundle):
    bundle = open_bundle(make_bundle())
    expected = bundle.model_file.read_bytes()
    with bundle.graph_source("model.onnx") as source:
        assert isinstance(source, str)
        bundle.model_file.write_bytes(b"exchanged")
        assert Path(source).read_bytes() == expected
        with pytest.raises(PermissionError), Path(source).open("r+b") as file:
            file.write(b"x")
            file.flush()
        with pytest.raises(PermissionError):
            os.truncate(source, 0)
        assert Path(source).read_bytes() == expected


def test_a_graph_that_was_exchanged_is_refused(make_bundle):
    bundle = open_bundle(make_bundle())
    data = bundle.model_file.read_bytes()
    bundle.model_file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with (
        pytest.raises(BundleError, match="not the file that was exported"),
        bundle.graph_source("model.onnx"),
    ):
        pass


def test_without_memory_files_the_graph_is_provided_as_bytes(make_bundle, monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    bundle = open_bundle(make_bundle())
    with bundle.graph_source("model.onnx") as source:
        assert source == bundle.model_file.read_bytes()


def test_where_files_cannot_be_sealed_the_graph_is_provided_as_bytes(make_bundle, monkeypatch):
    def refuse(_handle):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(bundles, "sealed_path", refuse)
    bundle = open_bundle(make_bundle())
    with bundle.graph_source("model.onnx") as source:
        assert source == bundle.model_file.read_bytes()
