"""Test that graphs share weights with `model.onnx`, and that engines still read only verified bytes."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from gcis_export.bundle.shared_weights import shared_weights
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import BundleError, EngineError
from tests.support.bundles_and_images import rehash_bundle, write_bundle
from tests.support.half_bundle import FILE, add_half

KERNEL = np.random.default_rng(3).standard_normal((2, 1, 9, 9, 9)).astype(np.float16)


@pytest.fixture
def folder(tmp_path):
    """Return a bundle whose two graphs have a large float16 tensor in common, at an odd offset."""
    folder = add_half(write_bundle(tmp_path / "b.gcis"))
    for file, name in (("model.onnx", "odd"), (FILE, "kernel.large")):
        model = onnx.load(folder / file)
        model.graph.initializer.append(numpy_helper.from_array(KERNEL, name))
        (folder / file).write_bytes(model.SerializeToString())
        rehash_bundle(folder, FILE)
    base = (folder / "model.onnx").read_bytes()
    if base.find(KERNEL.tobytes()) % 2 == 0:
        model = onnx.load(folder / "model.onnx")
        model.graph.node[0].name += "y"
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        rehash_bundle(folder, FILE)
    return folder


def share(folder):
    """Share the weights of the fp16 graph, and return the graph before and after."""
    before = onnx.load(folder / FILE)
    after = shared_weights(before, folder)
    (folder / FILE).write_bytes(after.SerializeToString())
    rehash_bundle(folder, FILE)
    return before, after


def test_equal_bytes_are_stored_once(folder):
    before, after = share(folder)
    (tensor,) = [t for t in after.graph.initializer if t.external_data]
    place = {entry.key: entry.value for entry in tensor.external_data}
    assert tensor.name == "kernel.large" and place["location"] == "model.onnx"
    assert int(place["offset"]) % 2 == 1 and int(place["length"]) == KERNEL.nbytes
    assert after.ByteSize() < before.ByteSize() - KERNEL.nbytes + 100
    small = [t for t in after.graph.initializer if t.name != "kernel.large"]
    assert small == [t for t in before.graph.initializer if t.name != "kernel.large"]


def test_the_runtime_inserts_the_shared_bytes(folder):
    before, _ = share(folder)
    bundle = open_bundle(folder)
    whole = onnx.load_from_string(bundle.graph(FILE))
    assert {t.name: numpy_helper.to_array(t).tobytes() for t in whole.graph.initializer} == {
        t.name: numpy_helper.to_array(t).tobytes() for t in before.graph.initializer
    }
    assert not any(t.external_data for t in whole.graph.initializer)
    with bundle.graph_source(FILE) as source:
        assert source == bundle.graph(FILE), "bytes: the references of a file could be followed"
    on_disk = onnx.load(folder / FILE)  # other programs follow the references
    assert [numpy_helper.to_array(t).tobytes() for t in on_disk.graph.initializer if t.name == "kernel.large"]


def test_the_float32_graph_stays_a_single_file(folder):
    share(folder)
    bundle = open_bundle(folder)
    assert set(bundle.external) == {FILE}
    assert bundle.graph_key("model.onnx") == bundle.manifest.entry("model.onnx").sha256
    session = open_session(bundle, EngineOptions(engine="onnx"))
    assert session.precision == "fp32"
    session.close()
    with pytest.raises(EngineError, match="computes in float32 on the CPU"):
        open_session(bundle, EngineOptions(engine="onnx", precision="fp16"))


def test_an_exchanged_file_with_the_weights_is_refused(folder):
    share(folder)
    bundle = open_bundle(folder)
    data = (folder / "model.onnx").read_bytes()
    place = data.find(KERNEL.tobytes())
    (folder / "model.onnx").write_bytes(data[:place] + b"\0\0\0\0" + data[place + 4 :])
    for read in (bundle.graph, lambda file: bundle.graph_source(file).__enter__()):
        with pytest.raises(BundleError, match="not the file that was exported"):
            read(FILE)
    os.truncate(folder / "model.onnx", place)
    with pytest.raises(BundleError, match="different size"):
        bundle.graph(FILE)


def test_the_key_of_a_graph_depends_on_the_file_with_its_weights(folder):
    share(folder)
    first = open_bundle(folder).graph_key(FILE)
    model = (folder / "model.onnx").read_bytes()
    place = model.find(KERNEL.tobytes())
    (folder / "model.onnx").write_bytes(model[: place + 1] + b"\1" + model[place + 2 :])
    rehash_bundle(folder, FILE)
    assert open_bundle(folder).graph_key(FILE) != first
