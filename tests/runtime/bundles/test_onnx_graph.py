"""Test that only graphs that an export could have written reach an engine."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.onnx_graph import check_onnx
from gcis_runtime.bundles.onnx_weights import with_weights
from gcis_runtime.bundles.store import DEMO_FOLDER
from gcis_runtime.errors import BundleError
from tests.support.bundles_and_images import write_model

LISTED = {"weights.bin": 1 << 20}


@pytest.fixture
def model(tmp_path: Path) -> onnx.ModelProto:
    write_model(tmp_path / "model.onnx")
    return onnx.load(tmp_path / "model.onnx")


def check(model: onnx.ModelProto | bytes, listed: dict[str, int] = LISTED) -> Any:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return check_onnx(data, source="model.onnx", listed=listed)


def outside(tensor: TensorProto, **place: str) -> None:
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "weights.bin", "length": str(size)} | place).items():
        tensor.external_data.add(key=key, value=value)


def loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["n", "c"], ["o"], body=body))


def first_node(**fields: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for name, value in fields.items():
            setattr(model.graph.node[0], name, value)

    return change


def weights(**place: str) -> Callable[[onnx.ModelProto], None]:
    return lambda model: outside(model.graph.initializer[0], **place)


def constant_outside(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "c")
    outside(tensor)
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("", "F", ["x"], ["y"], [], []))


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def shape(*dims: int) -> Callable[[onnx.ModelProto], None]:
    return lambda model: model.graph.initializer[0].dims.__setitem__(slice(None), dims)


def both(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].float_data.append(1.0)


REFUSED: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "loop": (loop, "control flow"),
    "loop without body": (first_node(op_type="Loop"), "control flow"),
    "scan": (first_node(op_type="Scan"), "control flow"),
    "function": (function, "received functions"),
    "training": (lambda m: m.training_info.add(), "received training steps"),
    "sparse weights": (sparse, "received sparse weights"),
    "another domain": (first_node(domain="com.microsoft"), "another domain; received 'com.microsoft'"),
    "imported domain": (lambda m: m.opset_import.add(domain="x", version=1), "another domain; received 'x'"),
    "operator with a path": (first_node(op_type="../x.so"), "an unknown operator"),
    "weights at an address": (weights(location="*/_ORT_MEM_ADDR_/*"), "does not list"),
    "weights in a folder above": (weights(location="../weights.bin"), "does not list"),
    "weights through a link": (weights(location="x/../weights.bin"), "does not list"),
    "weights by a long way": (weights(location="./weights.bin"), "does not list"),
    "weights, unlisted": (weights(location="other.bin"), "does not list"),
    "weights beyond the end": (weights(offset="1048575"), "not an ONNX file"),
    "weights at a negative place": (weights(offset="-4"), "not an ONNX file"),
    "weights of another size": (weights(length="4"), "not an ONNX file"),
    "weights with a base path": (weights(basepath="/"), "not an ONNX file"),
    "constant in another file": (constant_outside, "not an ONNX file"),
    "wrong shape": (shape(2, 1, 3, 3, 4), "not an ONNX file"),
    "huge shape": (shape(2**40, 2**40), "not an ONNX file"),
    "negative shape": (shape(-2, 1, 3, 3, -3), "not an ONNX file"),
    "elements twice": (both, "not an ONNX file"),
    "text": (lambda m: m.graph.initializer.append(helper.make_tensor("t", 8, [1], [b"x"])), "text"),
    "no elements": (lambda m: m.graph.initializer[0].ClearField("raw_data"), "not an ONNX file"),
    "no graph": (lambda m: m.ClearField("graph"), "not an ONNX file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_export_writes_is_refused(model: onnx.ModelProto, case: str) -> None:
    change, message = REFUSED[case]
    check(model)
    change(model)
    with pytest.raises(BundleError, match=message) as caught:
        check(model)
    assert caught.value.received and caught.value.expected and caught.value.fix


@pytest.mark.parametrize(
    "data",
    [b"", b"\x08", b"<?xml version='1.0'?><net/>", b"\x08\x0a\x12\x04TFL3", b"\x08\x0a\x3b\x3c", b"\x0b" * 9],
)
def test_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="not an ONNX file"):
        check(data)


def test_a_repeated_graph_is_refused(model: onnx.ModelProto) -> None:
    """Parsers merge repeated messages, so that a graph could be assembled from parts."""
    with pytest.raises(BundleError, match="repeated"):
        check(
            model.SerializeToString() + onnx.ModelProto(graph=onnx.GraphProto(name="x")).SerializeToString()
        )


def test_weights_from_other_files_are_put_into_the_graph(model: onnx.ModelProto) -> None:
    arrays = [numpy_helper.to_array(t) for t in model.graph.initializer]
    parts = [t.raw_data for t in model.graph.initializer]
    outside(model.graph.initializer[0])
    outside(model.graph.initializer[1], offset=str(len(parts[0])))
    external = check(model)
    data = with_weights(model.SerializeToString(), external, {"weights.bin": b"".join(parts)}.__getitem__)
    assert check(data, {}) == ()
    found = onnx.load_from_string(data)
    onnx.checker.check_model(found)
    for tensor, array in zip(found.graph.initializer, arrays, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), array)


def test_the_shipped_graph_is_accepted_unchanged() -> None:
    bundle = open_bundle(DEMO_FOLDER)
    assert "model.onnx" not in bundle.external
    assert bundle.graph("model.onnx") == bundle.model_file.read_bytes()


def fuzz(model: onnx.ModelProto, count: int) -> int:
    """Check mutated graphs; return how many were accepted. `onnx` must read these in the same way."""
    loop_free = model.SerializeToString()
    outside(model.graph.initializer[0])
    seeds = (loop_free, model.SerializeToString())
    rng, accepted = random.Random(0), 0
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(data))
            length = rng.choice((1, 2, 8, 40))
            kind = rng.randrange(4)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                del data[at : at + length]
            elif kind == 2:
                data[at:at] = rng.randbytes(length)
            else:
                data[at:at] = data[(other := rng.randrange(len(data))) : other + length]
            data = data or bytearray(b"x")
        try:
            external = check(bytes(data))
        except BundleError:
            continue
        try:
            found = onnx.load_from_string(bytes(data))
        except DecodeError:  # types of values are left to the engines, which refuse damaged ones
            continue
        accepted += 1
        assert all(node.op_type not in ("Loop", "If", "Scan", "SequenceMap") for node in found.graph.node)
        places = [
            entry.value
            for t in found.graph.initializer
            for entry in t.external_data
            if entry.key == "location"
        ]
        assert set(places) <= set(LISTED) and len(external) == len(places)
    return accepted


def test_mutated_graphs_are_refused_or_read_as_by_the_onnx_package(model: onnx.ModelProto) -> None:
    assert fuzz(model, 300) > 10


@pytest.mark.slow
def test_ten_thousand_mutated_graphs(model: onnx.ModelProto) -> None:
    assert fuzz(model, 10_000) > 300
