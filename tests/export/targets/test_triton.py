"""Test a Triton model repository with Triton's protobuf definition."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from gcis_export.targets.triton import write_triton
from gcis_runtime.bundles.bundle import Bundle, open_bundle
from gcis_runtime.bundles.manifest import Engine, FileEntry, Graph, encode
from gcis_runtime.errors import OutputError
from tests.support.export_cases import cheap_bundle

ONNX = Engine(
    backend="onnx", precision="fp32", file="model.onnx", graph="model.onnx", backend_version="1", device="cpu"
)
ENGINE = "engines/trt-11.0-sm_89-fp16-b2.engine"


def parsed(folder: Path) -> model_config_pb2.ModelConfig:
    text = (folder / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Return the test network as fp32 and fp16 graphs, the latter with batch 2, and a stub of its engine."""
    folder = cheap_bundle(
        tmp_path / "b.gcis", name='Bones & "liver", übung', prompts=("bone", "liver"), engines=(ONNX,)
    )
    (folder / "engines").mkdir()
    (folder / "model.fp16.b2.onnx").write_bytes((folder / "model.onnx").read_bytes())
    (folder / ENGINE).write_bytes(b"stands for an engine")
    manifest = open_bundle(folder).manifest
    files = [
        FileEntry(path=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        for name in ("model.fp16.b2.onnx", ENGINE)
        for data in [(folder / name).read_bytes()]
    ]
    half = Graph(
        file="model.fp16.b2.onnx", precision="fp16", batch=2, opset=20, nodes=1, weights_dtype="float16"
    )
    common = {
        "precision": "fp16",
        "graph": half.file,
        "backend_version": "11.0",
        "device": "sm_89",
        "batch": 2,
    }
    engines = (
        Engine(backend="trt", file=ENGINE, **common),
        Engine(backend="openvino", file=half.file, **common),
        *(manifest.engines * 2),
    )
    changed = msgspec.structs.replace(
        manifest, graphs=(*manifest.graphs, half), engines=engines, files=(*manifest.files, *files)
    )
    (folder / "manifest.json").write_bytes(encode(changed))
    return open_bundle(folder)


def test_graphs_and_engines_become_models(bundle, tmp_path):
    models = write_triton(bundle, tmp_path / "repository")
    assert {(m.name, m.version) for m in models} == {
        ("bones-liver-bung", 1), ("bones-liver-bung-trt-sm-89-fp16-b2", 1),
    }  # fmt: skip
    engine, graph = (tmp_path / "repository" / m.name for m in models)
    assert sorted(str(p.relative_to(graph)) for p in graph.rglob("*") if p.is_file()) == [
        "1/model.onnx", "config.pbtxt",
    ]  # fmt: skip
    assert (graph / "1" / "model.onnx").read_bytes() == bundle.model_file.read_bytes()
    assert (engine / "1" / "model.plan").read_bytes() == b"stands for an engine"


def test_the_configuration_says_what_triton_needs(bundle, tmp_path):
    write_triton(bundle, tmp_path)
    config = parsed(tmp_path / "bones-liver-bung")
    assert (config.name, config.backend) == ("bones-liver-bung", "onnxruntime")
    assert config.default_model_filename == "model.onnx"
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching")  # shapes are static
    (image,), (margins,) = config.input, config.output
    assert (image.name, list(image.dims)) == ("image", [1, 1, 64, 64, 64])
    assert (margins.name, list(margins.dims)) == ("margins", [1, 2, 64, 64, 64])
    assert image.data_type == margins.data_type == model_config_pb2.TYPE_FP32
    assert config.version_policy.latest.num_versions == 1
    (group,) = config.instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_AUTO
    (warmup,) = config.model_warmup
    assert warmup.batch_size == 1 and warmup.inputs["image"].zero_data
    assert list(warmup.inputs["image"].dims) == [1, 1, 64, 64, 64]
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert parameters["gcis_bundle"] == bundle.name and parameters["gcis_bundle_sha256"] == bundle.sha256
    assert [label["name"] for label in json.loads(parameters["gcis_labels"])] == ["bone", "liver"]
    assert json.loads(parameters["gcis_window"])["roi"] == [64, 64, 64]
    assert json.loads(parameters["gcis_preprocess"])["spacing"] == [2.0, 2.0, 2.0]


def test_an_engine_is_served_on_a_gpu_with_its_batch(bundle, tmp_path):
    write_triton(bundle, tmp_path)
    config = parsed(tmp_path / "bones-liver-bung-trt-sm-89-fp16-b2")
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert list(config.input[0].dims) == [2, 1, 64, 64, 64]
    assert list(config.output[0].dims) == [2, 2, 64, 64, 64]
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU


def test_exporting_again_adds_a_version(bundle, tmp_path):
    write_triton(bundle, tmp_path)
    (tmp_path / "bones-liver-bung" / "7").mkdir()
    (tmp_path / "bones-liver-bung" / "notes").mkdir()
    models = write_triton(bundle, tmp_path)
    assert {m.version for m in models} == {2, 8}
    folder = tmp_path / "bones-liver-bung"
    assert sorted(p.name for p in folder.iterdir()) == ["1", "7", "8", "config.pbtxt", "notes"]
    assert (folder / "8" / "model.onnx").read_bytes() == bundle.model_file.read_bytes()
    assert parsed(folder).name == folder.name


def test_a_model_with_other_tensors_is_left_alone(bundle, tmp_path):
    folder = tmp_path / "bones-liver-bung"
    write_triton(bundle, tmp_path)
    text = (folder / "config.pbtxt").read_text().replace("1, 2, 64, 64, 64", "1, 3, 64, 64, 64")
    (folder / "config.pbtxt").write_text(text)
    with pytest.raises(
        OutputError, match="contains a different model; received other inputs or outputs; expected input"
    ):
        write_triton(bundle, tmp_path)
    assert not (folder / "2").exists() and (folder / "config.pbtxt").read_text() == text
    assert not (tmp_path / "bones-liver-bung-trt-sm-89-fp16-b2" / "2").exists()
    (folder / "config.pbtxt").unlink()
    with pytest.raises(OutputError, match=r"received no config\.pbtxt"):
        write_triton(bundle, tmp_path)


def test_a_repository_that_cannot_be_written_is_one_line(bundle, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_triton(bundle, tmp_path / "file")


def test_a_bundle_with_nothing_to_serve_is_said(tmp_path):
    openvino = msgspec.structs.replace(ONNX, backend="openvino")
    bundle = open_bundle(cheap_bundle(tmp_path / "b.gcis", engines=(openvino,)))
    with pytest.raises(OutputError, match="no graph or engine that Triton can serve; received openvino"):
        write_triton(bundle, tmp_path / "models")
    assert not (tmp_path / "models").exists()
