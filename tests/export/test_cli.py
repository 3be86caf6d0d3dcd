"""Test `gcis-export` from a checkpoint to a bundle that the runtime opens."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from gcis_export import cli
from gcis_export.gate.parity import STATIC, Reference
from gcis_runtime import Segmenter, Volume, open_bundle
from gcis_runtime.bundles.store import find_bundle
from tests.support.export_cases import PROMPTS, ROI


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """Export once into a separate bundle store: two prompts, 16-bit weights, both engines."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCIS_HOME", str(home))
        names = [option for p in PROMPTS[:2] for option in ("--prompt", p)]
        result = run(
            "--checkpoint", checkpoint.folder, *names, "--engine", "onnx", "--engine", "openvino",
            "--weights", "fp16", "--precision", "fp16", "--check-windows", 1, "--name", "Two Things",
            "--post", "SCT 4596009=largest,min:0.5",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        yield result.output, home / "bundles" / "two-things.gcis"


def test_the_output_says_what_happened(exported):
    output, folder = exported
    assert "!!! TEXT WEIGHTS ARE RANDOM (SEED 0)" in output
    assert "post-processing of larynx: largest,min:0.5" in output
    for text in ("brainstem", "decoder10", "ONNX Runtime", "OpenVINO", "phantom", "model.onnx", str(folder)):
        assert text in output
    assert "FAILED" not in output.replace("bf16", "") or "does not offer it" in output
    assert "not a medical device" in output


def test_the_bundle_is_complete_and_found_by_prompt(exported):
    _, folder = exported
    bundle = open_bundle(find_bundle(None, ["larynx"]))
    assert bundle.folder == folder and sorted(p.name for p in folder.iterdir()) == [
        "manifest.json",
        "model.fp16.onnx",
        "model.onnx",
    ]
    manifest = bundle.manifest
    assert manifest.name == "Two Things" and [lb.value for lb in manifest.labels] == [1, 2]
    assert [lb.post.text if lb.post else "" for lb in manifest.labels] == ["", "largest,min:0.5"]
    assert [p.prompt for p in manifest.pathways] == list(PROMPTS[:2])
    assert all(p.router_gaps is not None for p in manifest.pathways)
    assert manifest.model.weights_dtype == "float16" and manifest.provenance.training == {
        "data": "none: random weights"
    }
    assert all(row.passed for row in manifest.parity if row.precision == "fp32")
    assert ("onnx", "fp32") in [(e.backend, e.precision) for e in manifest.engines]
    assert [(g.file, g.precision, g.weights_dtype) for g in manifest.graphs] == [
        ("model.onnx", "fp32", "float16"),
        ("model.fp16.onnx", "fp16", "float16"),
    ]
    typed = [row for row in manifest.parity if row.graph == "model.fp16.onnx"]
    assert typed and all(row.passed and row.precision == "fp16" and row.max_abs > 0 for row in typed)
    sizes = {entry.path: entry.bytes for entry in manifest.files}
    # 16-bit weights; their number depends on the blocks that the random pathways of both prompts share.
    assert sizes["model.onnx"] < 5_300_000
    assert sizes["model.fp16.onnx"] < 1_500_000  # row numbers and changed weights; the others are shared


def test_the_graphs_describe_themselves(exported):
    """A graph without its manifest has the settings that determine the labels."""
    _, folder = exported
    manifest = json.loads((folder / "manifest.json").read_text())
    fields = ("preprocess", "window", "labels")
    for file in ("model.onnx", "model.fp16.onnx"):
        model = onnx.load(folder / file, load_external_data=False)
        found = {entry.key: entry.value for entry in model.metadata_props}
        assert list(found) == ["gcis.contract", "gcis.notice", *(f"gcis.{name}" for name in fields)]
        assert {name: json.loads(found[f"gcis.{name}"]) for name in fields} == {
            name: manifest[name] for name in fields
        }
        assert (found["gcis.contract"], found["gcis.notice"]) == ("1", manifest["notice"])


def test_the_runtime_segments_with_it(exported):
    _, folder = exported
    rng = np.random.default_rng(0)
    volume = Volume.from_array(
        rng.integers(-200, 300, (40, 40, 40)).astype(np.int16), affine=np.diag([4, 4, 4, 1])
    )
    with Segmenter.open(folder, engine="onnx") as segmenter:
        labels = segmenter.segment(volume).labels
    assert labels.shape == (40, 40, 40) and set(np.unique(labels)) <= {0, 1, 2}


def test_errors_are_one_line_and_leave_nothing(checkpoint, tmp_path):
    target = tmp_path / "out" / "b.gcis"
    common = ("--checkpoint", checkpoint.folder, "-o", target)
    for arguments, expected in (
        ((*common, "--prompt", "spleen"), "no text embedding"),
        ((*common, "--compute-capability", "8.9"), "belongs to --engine trt-rtx"),
        ((*common, "--precision", "bf16"), "none of the selected engines supports bf16"),
        ((*common, "--patch-size", "50"), "multiples of 32"),
        ((*common, "--roi", "50"), "multiples of 32"),
        ((*common, "--check", tmp_path / "none.nii.gz"), "none.nii.gz"),
        (("--checkpoint", tmp_path / "none", "-o", target), "is not a checkpoint"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        lines = [line for line in result.output.splitlines() if not line.endswith("...")]
        assert len(lines) == 1 and lines[0].startswith("gcis-export: error:") and expected in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_failing_gate_writes_no_bundle(checkpoint, tmp_path, monkeypatch):
    """The graph of the file is changed; the stages before it are skipped, because other tests cover them."""
    from gcis_export import export as pipeline

    real = pipeline.to_onnx
    windows = [np.random.default_rng(0).random((1, 1, *ROI), dtype=np.float32)]

    def broken(export_model, **options):
        model = real(export_model, **options)
        tensor = next(t for t in model.graph.initializer if t.name.startswith("heads.0.weight"))
        tensor.raw_data = (1.2 * np.frombuffer(tensor.raw_data, np.float32)).astype(np.float32).tobytes()
        return model

    def networks(gate, resolution, export_model):
        import torch

        with torch.no_grad():
            answers = gate.answers(lambda w: export_model(torch.from_numpy(w)).numpy())
        return Reference(name=STATIC, answers=answers)

    monkeypatch.setattr(pipeline, "to_onnx", broken)
    monkeypatch.setattr(pipeline, "check_networks", networks)
    monkeypatch.setattr(pipeline, "gather_windows", lambda *a, **k: (windows, "noise"))
    result = run("--checkpoint", checkpoint.folder, "--prompt", "larynx", "-o", tmp_path / "b.gcis")
    assert result.exit_code == 2
    assert "ONNX Runtime" in result.output and "differs from PyTorch static" in result.output
    assert list(tmp_path.iterdir()) == []


def test_json_is_the_only_thing_on_standard_output(exported, monkeypatch):
    from gcis_export import export as pipeline
    from gcis_export.export import ExportResult

    _, folder = exported
    bundle = open_bundle(folder)
    made = ExportResult(
        folder=folder, manifest=bundle.manifest, sha256=bundle.sha256, coinciding=(("a", "b"),), nodes=1,
        windows="w", notes=("n",),
    )  # fmt: skip
    monkeypatch.setattr(pipeline, "export", lambda request, on_step=None: made)
    content = json.loads(run("--checkpoint", "x", "--json").stdout)
    assert content["sha256"] == bundle.sha256 and content["manifest"]["name"] == "Two Things"
    assert "'a' and 'b' have the same pathway" in run("--checkpoint", "x").stdout


def test_help_is_quick():
    start = time.perf_counter()
    script = Path(sys.executable).parent / "gcis-export"
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert "--path-selection" in done.stdout and "--patch-size" in done.stdout
    assert "--roi" not in done.stdout  # the former spelling works and is not listed
    assert time.perf_counter() - start < 2  # 0.1 s on a free machine; importing torch takes more
