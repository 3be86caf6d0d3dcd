"""Test the latency report: one run at toy size through `gcis-bundle latency`, and its files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from benchmarks.graphs import multiplications as counted_with_onnx
from gcis_runtime import Volume, write_volume
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import Engine
from gcis_runtime.bundles.store import DEMO_FOLDER
from gcis_runtime.cli.bundle import main
from gcis_runtime.demo.phantom import make_phantom
from gcis_runtime.engines.gpu.probe import Driver, Gpu
from gcis_runtime.latency import measure as latency
from gcis_runtime.latency.charts import accuracy_chart, stage_chart
from gcis_runtime.latency.product_graph import product_graph
from gcis_runtime.latency.record import PYTORCH, LatencyRecord, Missing, schema_text
from gcis_runtime.latency.report import fastest, page
from gcis_runtime.latency.tables import markdown
from gcis_runtime.latency.work import multiplications
from gcis_runtime.pages import renderer

REPOSITORY = Path(__file__).parents[3]
SCHEMA = REPOSITORY / "docs" / "schema" / "latency.v1.schema.json"


def small_ct(folder: Path) -> Path:
    """Write a CT that one window covers, under a patient's name."""
    phantom = make_phantom(3, spacing=(6.0, 6.0, 6.0))
    middle = tuple(slice(n // 2 - 12, n // 2 + 12) for n in phantom.ct.shape)
    image = folder / "Doe_Jane.nii.gz"
    write_volume(image, Volume.from_array(phantom.ct[middle], affine=phantom.affine))
    return image


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that the command writes."""
    folder = tmp_path_factory.mktemp("report")
    command = ["latency", "demo", "--image", str(small_ct(folder)), "--rounds", "1", "--repeats", "1"]
    done = CliRunner().invoke(main, [*command, "--product", "256", "-o", str(folder / "out")])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1].startswith("page: ")
    return folder / "out"


@pytest.fixture(scope="module")
def record(report: Path) -> LatencyRecord:
    (path,) = report.glob("latency_*.json")
    return msgspec.json.decode(path.read_bytes(), type=LatencyRecord)


def test_every_engine_ran_and_agrees_with_onnx_runtime(record: LatencyRecord) -> None:
    names = {row.name: row for row in record.rows} | {m.name: m for m in record.missing}
    assert names.keys() == {"onnx fp32", "openvino fp32", "openvino bf16"}
    for row in record.rows:
        assert row.labels_equal >= (0.9999 if row.precision == "fp32" else 0.995)
        assert row.repeats == 1 and row.windows == 1
        assert sum(s.p50 for s in row.stages.values()) == pytest.approx(row.total.p50, rel=0.5)
        assert 0 < row.start_first_seconds < row.first_result_seconds
        assert row.gflops > 0 and row.ceiling_gflops and row.peak_memory_mb and row.device_memory_mb is None
        assert row.windows_per_second == pytest.approx(1 / row.stages["network"].p50, rel=0.01)
    assert record.reference.name == "onnx fp32" and not record.from_pytorch
    assert record.rows[0].labels_equal == 1 and record.reference.whole_seconds > 0


def test_the_folder_is_complete_and_names_no_patient(report: Path) -> None:
    html = (report / "index.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert len(links) == 4 and all((report / link).is_file() for link in links)
    for picture in ("stages.svg", "accuracy.svg"):
        assert ElementTree.parse(report / picture).getroot().tag.endswith("svg")
    assert "<h2>CT</h2>" in html and "24 x 24 x 24 voxels of 6 x 6 x 6 mm: 14 x 14 x 14 cm" in html
    assert "1 of 64 x 64 x 64 voxels of 4 x 4 x 4 mm, overlapping by 50%" in html
    assert "not a medical device" in html and "PyTorch" not in html
    assert "gcis-bundle latency BUNDLE --image CT.nii.gz -o DIR" in html
    assert "| onnx fp32 |" in (report / "latency.md").read_text()
    assert not any(b"Doe" in path.read_bytes() for path in report.iterdir())


def test_records_follow_the_published_schema(report: Path) -> None:
    assert SCHEMA.read_text() == schema_text(), "run: python -m benchmarks schema"
    schema = json.loads(SCHEMA.read_text())
    (path,) = report.glob("latency_*.json")
    found = json.loads(path.read_text())
    jsonschema.validate(found, schema)
    del found["rows"][0]["labels_equal"]
    with pytest.raises(jsonschema.ValidationError, match="labels_equal"):
        jsonschema.validate(found, schema)


def _with_rows(record: LatencyRecord, *, equal: float, missing: tuple[Missing, ...] = ()) -> LatencyRecord:
    """Return the record as compared with PyTorch, with rows of that agreement, one of them on a GPU."""
    voxels = int(np.prod(record.subject.voxels))
    rows = [
        msgspec.structs.replace(row, labels_equal=equal, voxels_unequal=round((1 - equal) * voxels), dice=1.0)
        for row in record.rows
    ]
    rows[0] = msgspec.structs.replace(
        rows[0], device="cuda:0", ceiling_gflops=None, share_of_ceiling=None, device_memory_mb=900
    )
    reference = msgspec.structs.replace(record.reference, name=PYTORCH)
    return msgspec.structs.replace(record, reference=reference, rows=tuple(rows), missing=missing)


def test_the_page_recommends_only_engines_that_agree(record: LatencyRecord) -> None:
    poor = _with_rows(record, equal=0.98, missing=(Missing(name="trt fp16", reason="needs <a GPU>"),))
    text = page(poor, record_name="r.json")
    assert "No engine agrees with the reference closely enough" in text and "Fastest:" not in text
    assert "needs &lt;a GPU&gt;" in text
    assert fastest(poor, (0.995, 0.99)) is None
    good = page(_with_rows(record, equal=0.997), record_name="r.json")
    assert "Fastest: <code>gcis-run CT.nii.gz --engine" in good and "As exact as the reference" not in good
    assert "<th>GPU memory (MB)</th>" in good and "<td>900</td>" in good
    assert "The same network in PyTorch took" in good
    assert "GPU memory (MB)" not in page(record, record_name="r.json")  # an empty column is left out
    rows = tuple(msgspec.structs.replace(row, dice=0.98) for row in record.rows)
    assert fastest(msgspec.structs.replace(record, rows=rows), (0.995, 0.99)) is None
    assert "- trt fp16 did not run" in markdown(poor)
    assert any(mark.text == PYTORCH for mark in accuracy_chart(poor).labels)


def test_bars_have_the_length_of_their_seconds(record: LatencyRecord) -> None:
    chart = stage_chart(record)
    ticks = {float(tick.text): tick.x for tick in chart.x_ticks}
    one, two = sorted(ticks)[:2]
    scale = (ticks[two] - ticks[one]) / (two - one)
    for place, row in enumerate(sorted(record.rows, key=lambda row: row.total.p50)):
        bars = chart.shapes[6 * place : 6 * place + 6]
        assert sum(bar.width for bar in bars) == pytest.approx(
            scale * sum(s.p50 for s in row.stages.values())
        )
    assert all(chart.left <= mark.x <= chart.right for mark in chart.shapes)


def test_candidates_are_all_graphs_in_all_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(DEMO_FOLDER)
    cpu = ["onnx fp32", "openvino fp32", "openvino bf16"]
    assert [c.name for c in latency.candidates([bundle, bundle])] == cpu
    gpu = Gpu(index=0, name="GPU", capability=(8, 9), memory=1 << 30)
    monkeypatch.setattr(latency, "probe_driver", lambda: Driver(version="13.0", gpus=(gpu,)))
    trt = Engine(
        backend="trt-rtx", precision="fp16", file="e", graph="model.onnx", backend_version="1", device="8.9"
    )
    manifest = msgspec.structs.replace(bundle.manifest)
    msgspec.structs.force_setattr(manifest, "engines", (*manifest.engines, trt))  # its file is not listed
    both = type(bundle)(folder=bundle.folder, manifest=manifest, sha256="")
    assert [c.name for c in latency.candidates([both])] == [
        *cpu,
        "onnx fp16 on a GPU",
        "onnx fp32 on a GPU",
        "trt-rtx fp16 on a GPU",
    ]


def test_bundles_of_different_structures_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.gcis"
    other.mkdir()
    for file in DEMO_FOLDER.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    text = (other / "manifest.json").read_text()
    (other / "manifest.json").write_text(
        text.replace('"name": "mandible"', '"name": "jaw"').replace('"name":"mandible"', '"name":"jaw"')
    )
    done = CliRunner().invoke(main, ["latency", "demo", str(other), "-o", str(tmp_path / "o")])
    assert done.exit_code == 2 and "do not have the same structures" in done.output
    assert not (tmp_path / "o").exists()


def test_a_missing_renderer_is_reported_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderer.importlib.util, "find_spec", lambda _name: None)
    done = CliRunner().invoke(main, ["latency", "demo", "-o", str(tmp_path / "o")])
    assert done.exit_code == 2 and 'pip install "gcis[report]"' in done.output
    assert not (tmp_path / "o").exists()


def test_multiplications_are_counted_as_with_the_onnx_package() -> None:
    file = open_bundle(DEMO_FOLDER).model_file
    assert multiplications(file) == counted_with_onnx(onnx.load(str(file)))


@pytest.mark.parametrize("eight_bit", [False, True])
def test_the_matrix_product_is_a_valid_graph(eight_bit: bool) -> None:
    model = onnx.load_from_string(product_graph(300, eight_bit=eight_bit))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node][-1] == "MatMul"
    assert counted_with_onnx(model) == 300**3
    x = np.random.default_rng(1).standard_normal((300, 300), dtype=np.float32)
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    if not eight_bit:
        np.testing.assert_allclose(y, x @ constants["w"], rtol=1e-3, atol=1e-3)
    assert y.shape == (300, 300) and np.abs(y).max() > 0


@pytest.mark.slow
def test_the_report_is_written_from_an_installed_wheel(tmp_path: Path) -> None:
    """Build the wheel, install it alone into an environment that sees these packages, and run the command."""
    source = tmp_path / "source"  # a copy, since building leaves build/ and egg-info behind
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("gcis_runtime", "gcis_train", "gcis_export"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("gcis-*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    python = next(p for p in (tmp_path / "venv").glob("*/python*") if p.name in ("python", "python.exe"))
    site = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # The other packages of this environment follow, without the editable install of the checkout.
    paths = [p for p in sys.path if p.endswith("site-packages")]
    code = (
        "import sys; sys.path += " + repr(paths) + "\n"
        "import gcis_runtime.cli.bundle as cli\n"
        f"assert cli.__file__.startswith({str(tmp_path)!r}), cli.__file__\n"
        "cli.main()"
    )
    words = ["latency", "demo", "--image", str(small_ct(tmp_path)), "--rounds", "1", "--repeats", "1"]
    done = subprocess.run(
        [python, "-c", code, *words, "--product", "256", "-o", str(tmp_path / "out")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([site, *paths])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "index.html").is_file()
