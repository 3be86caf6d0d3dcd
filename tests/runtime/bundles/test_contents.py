"""Test that files of a bundle are plain files that are reached through no link."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.errors import BundleError
from tests.support.bundles_and_images import rehash_bundle


def linked_file(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "other")
    (folder / "model.onnx").symlink_to("other")


def linked_folder(folder: Path) -> None:
    (folder / "real").mkdir()
    shutil.copy(folder / "model.onnx", folder / "real" / "x.bin")
    (folder / "engines").symlink_to("real")
    rehash_bundle(folder, "engines/x.bin")


def linked_manifest(folder: Path) -> None:
    (folder / "manifest.json").rename(folder / "other")
    (folder / "manifest.json").symlink_to("other")


@pytest.mark.parametrize("harm", [linked_file, linked_folder, linked_manifest])
def test_links_inside_a_bundle_are_refused(make_bundle: Callable[..., Path], harm: Callable[[Path], None]):
    folder = make_bundle()
    harm(folder)
    with pytest.raises(BundleError, match="link"):
        open_bundle(folder)


def test_a_link_to_a_bundle_is_no_danger(make_bundle: Callable[..., Path], tmp_path: Path):
    (tmp_path / "link.gcis").symlink_to(make_bundle())
    assert open_bundle(tmp_path / "link.gcis").graph("model.onnx")


def test_the_bytes_of_a_file_are_compared_when_they_are_read(make_bundle: Callable[..., Path]):
    folder = make_bundle()
    (folder / "x.bin").write_bytes(b"1234")
    rehash_bundle(folder, "x.bin")
    bundle = open_bundle(folder)
    assert bundle.read("x.bin") == b"1234"
    (folder / "x.bin").write_bytes(b"1235")
    with pytest.raises(BundleError, match="not the file that was exported"):
        bundle.read("x.bin")
    with pytest.raises(BundleError, match="no such file"):
        bundle.read("y.bin")


def test_the_key_of_a_graph_depends_on_all_files_with_weights(make_bundle: Callable[..., Path]):
    keys = set()
    for name, content in (("a", None), ("b", b"1"), ("c", b"2")):
        folder = make_bundle(name)
        if content is not None:
            (folder / "weights.bin").write_bytes(content)
            rehash_bundle(folder, "weights.bin")
        keys.add(open_bundle(folder).graph_key("model.onnx"))
    assert len(keys) == 3
