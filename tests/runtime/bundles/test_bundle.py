"""Test that only valid, safe and unchanged bundles are opened, and that the store finds bundles."""

from __future__ import annotations

import json
import shutil

import pytest

from gcis_runtime.bundles import store
from gcis_runtime.bundles.bundle import open_bundle, safe_path, select_labels
from gcis_runtime.bundles.store import find_bundle, list_bundles, slugify, store_folder
from gcis_runtime.errors import BundleError, PromptError


def edit(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return folder


def test_a_good_bundle_opens(make_bundle):
    bundle = open_bundle(make_bundle())
    assert bundle.name == "test"
    assert len(bundle.sha256) == 64
    assert bundle.size == bundle.model_file.stat().st_size


def damage_model(folder):
    path = folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def add_file(folder, path):
    edit(folder, lambda m: m["files"].append({**m["files"][0], "path": path}))


def link_out(folder):
    path = folder / "model.onnx"
    shutil.move(path, folder.parent / "outside.onnx")
    path.symlink_to(folder.parent / "outside.onnx")


def link_folder_out(folder):
    shutil.copy(folder / "model.onnx", folder.parent / "right.onnx")  # the right bytes, elsewhere
    (folder / "engines").symlink_to(folder.parent)
    add_file(folder, "engines/right.onnx")


DAMAGE = {
    "no folder": (shutil.rmtree, "does not exist"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "is not a bundle"),
    "not JSON": (lambda f: (f / "manifest.json").write_text("{"), "not a bundle manifest"),
    "other version": (lambda f: edit(f, lambda m: m.update(schema_version=3)), "by a newer gcis"),
    "unknown field": (lambda f: edit(f, lambda m: m.update(more=1)), "follow the schema"),
    "changed bit": (damage_model, "not the file that was exported"),
    "other size": (lambda f: (f / "model.onnx").write_bytes(b"x"), "a different size"),
    "missing file": (lambda f: (f / "model.onnx").unlink(), "lacks a file"),
    "absolute path": (lambda f: add_file(f, "/etc/passwd"), "outside"),
    "parent path": (lambda f: add_file(f, "../x"), "outside"),
    "link out": (link_out, "outside itself"),
    "linked folder": (link_folder_out, "outside itself"),
    "folder": (lambda f: ((f / "sub").mkdir(), add_file(f, "sub")), "lacks a file"),
    "engine elsewhere": (
        lambda f: edit(f, lambda m: m.update(engines=[{
            "backend": "trt", "precision": "fp16", "file": "x.engine", "graph": "model.onnx",
            "backend_version": "1", "device": "sm_89",
        }])), "not among the files",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused(make_bundle, case):
    harm, expected = DAMAGE[case]
    folder = make_bundle()
    harm(folder)
    with pytest.raises(BundleError, match=expected) as caught:
        open_bundle(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../../b", "a\\b", "C:a"])
def test_paths_stay_inside(tmp_path, path):
    with pytest.raises(BundleError, match="outside"):
        safe_path(tmp_path, path)
    assert safe_path(tmp_path, "engines/a.engine") == tmp_path / "engines" / "a.engine"


def test_prompts_select_channels(make_bundle):
    manifest = open_bundle(make_bundle(prompts=("right kidney", "left kidney"))).manifest
    assert select_labels(manifest, []) == (0, 1)
    assert select_labels(manifest, [" Left  Kidney"]) == (1,)
    with pytest.raises(PromptError, match=r"'right kidney', 'left kidney'.*mean 'left kidney'"):
        select_labels(manifest, ["left kidny"])


def test_the_store_finds_the_bundle_that_is_meant(make_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    assert store_folder() == tmp_path / "home" / "bundles"
    assert list_bundles() == []
    with pytest.raises(BundleError, match="no bundle is installed"):
        find_bundle(None)
    one = make_bundle("home/bundles/kidneys.gcis", name="Kidneys", prompts=("right kidney", "left kidney"))
    assert find_bundle(None) == one
    two = make_bundle("home/bundles/bones.gcis", name="Bones", prompts=("skull", "rib"))
    (tmp_path / "home" / "bundles" / "broken.gcis").mkdir()
    (tmp_path / "home" / "bundles" / "broken.gcis" / "manifest.json").write_text("{}")
    assert [e.slug for e in list_bundles()] == ["bones", "broken", "kidneys"]
    assert find_bundle(None, ["rib", "skull"]) == two
    assert find_bundle("kidneys") == find_bundle("Kidneys") == find_bundle("kidneys.gcis") == one
    assert find_bundle(str(two)) == two
    with pytest.raises(BundleError, match=r"several installed.*bones \(skull, rib\)"):
        find_bundle(None)
    with pytest.raises(PromptError, match=r"one of .*'skull'"):
        find_bundle(None, ["liver"])
    with pytest.raises(PromptError, match="no installed bundle has all"):
        find_bundle(None, ["rib", "left kidney"])
    with pytest.raises(BundleError, match="there is no bundle 'liver'"):
        find_bundle("liver")


def test_the_demo_has_a_name(make_bundle, monkeypatch, tmp_path):
    monkeypatch.setattr(store, "DEMO_FOLDER", tmp_path / "no")
    with pytest.raises(BundleError, match="has no demo bundle"):
        find_bundle("demo")
    folder = make_bundle()
    monkeypatch.setattr(store, "DEMO_FOLDER", folder)
    assert find_bundle("demo") == folder


def test_slugs():
    assert slugify("Head & Neck, 7 organs") == "head-neck-7-organs"
    with pytest.raises(BundleError, match="no letter"):
        slugify("---")
