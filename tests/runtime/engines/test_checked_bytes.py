"""Test that engines compute the bytes that were checked, whatever happens to the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from gcis_runtime.bundles.bundle import Bundle, open_bundle
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import BundleError, EngineError
from tests.support.bundles_and_images import rehash_bundle

ENGINES = pytest.mark.parametrize("engine", ["onnx", "openvino"])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))


def largest_logit(bundle: Bundle, engine: str) -> float:
    session = open_session(bundle, EngineOptions(engine=engine))
    window = np.ones((1, 1, 64, 64, 64), np.float32)
    found = float(session.run(window).max())
    session.close()
    return found


def shifted(model: onnx.ModelProto, shift: float) -> onnx.ModelProto:
    """Return a copy of the test network whose logits are shifted."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    bias = other.graph.initializer[1]
    value = numpy_helper.to_array(bias) + np.float32(shift)
    bias.CopyFrom(numpy_helper.from_array(value.astype(np.float32), bias.name))
    return other


@ENGINES
def test_a_graph_that_is_exchanged_after_the_check_is_refused(make_bundle: Callable[..., Path], engine: str):
    bundle = open_bundle(make_bundle())
    good = bundle.model_file.read_bytes()
    bundle.model_file.write_bytes(shifted(onnx.load_from_string(good), -1000).SerializeToString())
    with pytest.raises(BundleError, match="not the file that was exported"):
        largest_logit(bundle, engine)
    bundle.model_file.write_bytes(good)
    assert largest_logit(bundle, engine) > -100, "nothing of the other graph was cached"


@ENGINES
def test_weights_in_another_file_are_part_of_the_network(make_bundle: Callable[..., Path], engine: str):
    found = {}
    for name, shift in (("good", 0.0), ("other", -1000.0), ("good again", 0.0)):
        folder = make_bundle(name)
        model = shifted(onnx.load(folder / "model.onnx"), shift)
        bias = model.graph.initializer[1]
        (folder / "weights.bin").write_bytes(b"1234" + bias.raw_data)
        place = {"location": "weights.bin", "offset": "4", "length": str(len(bias.raw_data))}
        bias.ClearField("raw_data")
        bias.data_location = onnx.TensorProto.EXTERNAL
        for key, value in place.items():
            bias.external_data.add(key=key, value=value)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        rehash_bundle(folder, "weights.bin")
        found[name] = largest_logit(open_bundle(folder), engine)
    assert found["good"] == found["good again"] > -100
    assert found["other"] < -900


def test_a_rejected_operator_is_an_engine_error(make_bundle: Callable[..., Path]):
    folder = make_bundle()
    model = onnx.load(folder / "model.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    rehash_bundle(folder)
    with pytest.raises(EngineError, match="cannot load"):
        open_session(open_bundle(folder), EngineOptions(engine="onnx"))
