"""Test `--triton` and `--monai-bundle`: checked before the export, written after it, listed in the report."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from gcis_export import cli, report
from gcis_export.export import ExportResult
from gcis_export.options import ExportRequest
from gcis_export.targets.formats import write_targets
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import Engine
from tests.support.export_cases import cheap_bundle

ONNX = Engine(
    backend="onnx", precision="fp32", file="model.onnx", graph="model.onnx", backend_version="1", device="cpu"
)


def test_a_place_that_cannot_be_written_is_refused_before_the_checkpoint_is_read(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    (tmp_path / "file").touch()
    for option, place, expected in (
        ("--monai-bundle", tmp_path / "photos", "is not a MONAI bundle"),
        ("--monai-bundle", tmp_path / "file" / "m", "cannot be written"),
        ("--triton", tmp_path / "file", "cannot be written"),
        ("--triton-case", tmp_path / "file", "cannot be written"),
    ):
        result = CliRunner().invoke(cli.main, ["--checkpoint", "none", option, str(place)])
        assert result.exit_code == 2
        (line,) = result.output.splitlines()
        assert line.startswith("gcis-export: error:") and expected in line
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["cat.png", "file", "photos"]


def test_the_finished_bundle_is_written_to_its_targets_and_reported(tmp_path: Path):
    folder = cheap_bundle(tmp_path / "b.gcis", name="organs", engines=(ONNX,))
    request = ExportRequest(
        checkpoint=tmp_path,
        triton=tmp_path / "models",
        triton_case=tmp_path / "models",
        monai_bundle=tmp_path / "monai",
        output=folder,
    )
    steps: list[str] = []
    written = write_targets(request, folder, steps.append)
    models = tmp_path / "models"
    assert written == (models / "organs", models / "organs-case", tmp_path / "monai")
    assert open_bundle(models / "organs-case" / "1" / "bundle.gcis").sha256 == open_bundle(folder).sha256
    model = open_bundle(folder).model_file.read_bytes()
    assert (tmp_path / "models" / "organs" / "1" / "model.onnx").read_bytes() == model
    assert (tmp_path / "monai" / "models" / "model.onnx").read_bytes() == model
    assert len(steps) == 3
    bundle = open_bundle(folder)
    result = ExportResult(
        folder=folder, manifest=bundle.manifest, sha256=bundle.sha256, coinciding=(), nodes=1, windows="w",
        notes=(), targets=written,
    )  # fmt: skip
    for place in (*written, folder):
        assert f"wrote {place}" in report.as_text(result)
    assert str(tmp_path / "monai") in report.as_json(result)
