"""Test the whole-case model: its files, and with the real server its answers."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import msgspec
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from google.protobuf import text_format
from tritonclient import grpc
from tritonclient.grpc import model_config_pb2

from gcis_export.targets.triton_case.write import write_triton_case
from gcis_runtime import Segmenter
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.errors import GcisError, ImageError, OutputError
from gcis_runtime.fleet.file_bytes import segment_bytes
from gcis_runtime.pipeline.report import Report
from tests.support.bundles_and_images import write_bundle, write_ct
from tests.support.triton_server import VENV, server_folder, triton


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return open_bundle(write_bundle(tmp_path_factory.mktemp("bundle") / "b.gcis"))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return write_ct(tmp_path_factory.mktemp("image") / "ct.nii.gz", shape=(20, 18, 16))


@pytest.fixture(scope="module")
def expected(bundle, image):
    """Return the labels that gcis-run gives."""
    with Segmenter.open(bundle, engine="onnx") as segmenter:
        return segmenter.segment(image).labels


def test_the_model_contains_its_bundle_and_a_configuration(bundle, tmp_path):
    first, second = (write_triton_case(bundle, tmp_path / "models") for _ in range(2))
    assert (first.version, second.version, first.folder) == (1, 2, second.folder)
    for version in "12":
        copy = open_bundle(first.folder / version / "bundle.gcis")  # verifies every file
        assert copy.sha256 == bundle.sha256
    text = (first.folder / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == (first.folder.name, "python", 0)
    assert [(t.name, list(t.dims)) for t in (*config.input, *config.output)] == [
        ("image", [-1]), ("labels", [-1]), ("report", [-1]),
    ]  # fmt: skip
    assert {t.data_type for t in (*config.input, *config.output)} == {model_config_pb2.TYPE_UINT8}
    assert config.parameters["gcis_bundle_sha256"].string_value == bundle.sha256
    assert (first.folder / "1" / "model.py").read_text().startswith('"""Segment CT files in Triton')


def test_another_model_of_the_same_name_stays(bundle, tmp_path):
    folder = write_triton_case(bundle, tmp_path).folder
    (folder / "config.pbtxt").write_text('backend: "onnxruntime"\n')
    with pytest.raises(OutputError, match="contains a different model"):
        write_triton_case(bundle, tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["1", "config.pbtxt"]


def test_bytes_give_the_labels_of_the_file(bundle, image, expected, tmp_path):
    with Segmenter.open(bundle, engine="onnx") as segmenter:
        plain = gzip.decompress(image.read_bytes())
        for content in (image.read_bytes(), plain, bz2.compress(plain)):
            labels, report = segment_bytes(segmenter, content)
            (tmp_path / "l.nii.gz").write_bytes(labels)
            assert (np.asanyarray(nib.load(tmp_path / "l.nii.gz").dataobj) == expected).all()
            assert msgspec.json.decode(report, type=Report).image == ""
            assert "gcis-" not in report.decode()
        named = b"NDims = 3\nDimSize = 1 1 1\nElementType = MET_CHAR\nElementDataFile = /proc/version\n"
        with pytest.raises(ImageError, match="names another file"):
            segment_bytes(segmenter, named)
        for start, kind in ((bytes(128) + b"DICM", "DICOM"), (b"PK\x03\x04", "ZIP")):
            with pytest.raises(ImageError) as found:
                segment_bytes(segmenter, start + bytes(400))
            assert kind in str(found.value)
        for content in (b"", b"text", image.read_bytes()[:500]):
            with pytest.raises(GcisError) as caught:
                segment_bytes(segmenter, content)
            assert "/" not in str(caught.value).replace(".nii.gz", "").replace(".nii/", "")
        with pytest.raises(ZeroDivisionError):  # a client that has gone away
            segment_bytes(segmenter, image.read_bytes(), progress=lambda *_: 1 // 0)
        assert segment_bytes(segmenter, image.read_bytes())[0] == labels
    with Segmenter.open(bundle, engine="onnx") as segmenter, pytest.raises(ImageError, match="is empty"):
        segment_bytes(segmenter, b"")


def test_a_meta_image_is_recognised_by_any_first_key(bundle, image, expected, tmp_path):
    path = tmp_path / "ct.mha"
    SimpleITK.WriteImage(SimpleITK.ReadImage(image), path)
    with Segmenter.open(bundle, engine="onnx") as segmenter:
        labels, _ = segment_bytes(segmenter, b"Comment = of a converter\n" + path.read_bytes())
    path.write_bytes(labels)
    assert (expected == SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)).T).all()


@pytest.mark.service
@pytest.mark.skipif(server_folder() is None, reason=f"no server in {VENV}: run scripts/triton_server")
def test_the_real_server_gives_the_labels_of_gcis_run(bundle, image, expected, tmp_path):
    model = write_triton_case(bundle, tmp_path / "models")
    with triton(tmp_path / "models", tmp_path) as address, grpc.InferenceServerClient(address) as client:

        def ask(content: bytes, **options):
            tensor = grpc.InferInput("image", [len(content)], "UINT8")
            tensor.set_data_from_numpy(np.frombuffer(content, dtype=np.uint8))
            answer = client.infer(model.name, [tensor], **options)
            return answer.as_numpy("labels").tobytes(), json.loads(answer.as_numpy("report").tobytes())

        plain = gzip.decompress(image.read_bytes())
        for content in (image.read_bytes(), plain, bz2.compress(plain)):
            labels, report = ask(content)
            (tmp_path / "l.nii.gz").write_bytes(labels)
            assert (np.asanyarray(nib.load(tmp_path / "l.nii.gz").dataobj) == expected).all()
            assert report["bundle"]["sha256"] == bundle.sha256
            assert [s["voxels"] for s in report["structures"]] == [
                int((expected == s["value"]).sum()) for s in report["structures"]
            ]
        for content, text in (
            (b"no image at all", "not"),
            (image.read_bytes()[:500], "damaged or truncated"),
        ):
            with pytest.raises(grpc.InferenceServerException, match=text) as caught:
                ask(content)
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
            assert str(Path("/tmp")) not in str(caught.value)
        with pytest.raises(grpc.InferenceServerException, match=r"[Dd]eadline|[Cc]ancel"):
            ask(image.read_bytes(), client_timeout=0.001)
        assert ask(image.read_bytes())[0] == labels  # errors leave the model usable
