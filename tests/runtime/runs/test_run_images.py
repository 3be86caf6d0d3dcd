"""Test that `run_images` equals `gcis-run`, and that its reports follow the published schema."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import msgspec
import pytest
from click.testing import CliRunner

from gcis_runtime import (
    EngineOptions,
    GcisError,
    Report,
    RunCallbacks,
    RunOptions,
    SegmentOptions,
    run_images,
)
from gcis_runtime.cli import bundle as bundle_cli
from gcis_runtime.cli import run as run_cli
from gcis_runtime.runs.run_images import run_phantom
from gcis_runtime.system.folder_lock import folder_lock
from tests.support.bundles_and_images import write_ct

SCHEMAS = Path(__file__).parents[3] / "docs" / "schema"
GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "python.md"
ENGINE = EngineOptions(engine="onnx", threads=1)


@pytest.fixture
def bundle(make_bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    return make_bundle()


@pytest.fixture
def cts(tmp_path):
    (tmp_path / "cts").mkdir()
    for seed, name in enumerate("ab"):
        write_ct(tmp_path / "cts" / f"{name}.nii.gz", shape=(20, 18, 16), seed=seed)
    return tmp_path / "cts"


def schema(name):
    return json.loads((SCHEMAS / f"{name}.v1.schema.json").read_text())


@pytest.mark.parametrize("name", ["report", "summary"])
def test_the_schemas_are_published(name):
    text = CliRunner().invoke(bundle_cli.main, ["schema", name]).stdout
    published = SCHEMAS / f"{name}.v1.schema.json"
    assert published.read_text() == text, f"run: gcis-bundle schema {name} > {published}"


def test_a_folder_is_segmented_and_every_event_is_passed_on(bundle, cts, tmp_path):
    (cts / "c.nii.gz").write_bytes(b"no image")
    seen, out = [], tmp_path / "out"
    callbacks = RunCallbacks(
        on_start=lambda start: seen.append(("start", len(start.jobs))),
        on_done=lambda outcome: seen.append(("done", outcome.job.name, outcome.error is None)),
        on_progress=lambda job: lambda finished, total: seen.append(("window", job.name, finished, total)),
        on_forecast=lambda job, forecast: seen.append(("forecast", job.name, forecast.windows)),
    )
    options = RunOptions(
        segment=SegmentOptions(masks=True, probabilities=True, roi="0:9,:,:"), statistics=True, preview=True
    )
    result = run_images(cts, bundle=bundle, engine=ENGINE, options=options, out=out, callbacks=callbacks)
    assert [r.case for r in result.reports] == ["a", "b"] and result.skipped == ()
    assert [e.image.name for e in result.errors] == ["c.nii.gz"]
    assert result.summary.counts == {"done": 2, "skipped": 0, "failed": 1, "waiting": 0}
    assert result.summary_file == out / "summary.csv" and result.summary_file.is_file()
    assert seen[0] == ("start", 3)
    assert {s[1:] for s in seen if s[0] == "done"} == {("a", True), ("b", True), ("c", False)}
    assert (
        {s[1] for s in seen if s[0] == "window"} == {s[1] for s in seen if s[0] == "forecast"} == {"a", "b"}
    )
    for report in result.reports:
        document = json.loads((out / f"{report.case}_seg.json").read_text())
        jsonschema.validate(document, schema("report"))
        assert msgspec.convert(document, Report) == report
        assert report.region.box[0] == (0, 9) and document["region"]["box"][0] == [0, 9]
        assert set(report.masks) == set(report.probability) == {"bone", "liver"}
    jsonschema.validate(json.loads((out / "summary.json").read_text()), schema("summary"))
    with pytest.raises(jsonschema.ValidationError, match="twelve"):
        jsonschema.validate(document | {"schema": "twelve"}, schema("report"))


def test_python_and_the_command_resume_each_others_runs(bundle, cts, tmp_path):
    out = tmp_path / "out"
    words = [cts, "--bundle", bundle, "--engine", "onnx", "--threads", 1, "-o", out, "--masks"]
    assert CliRunner().invoke(run_cli.main, [str(word) for word in words]).exit_code == 0
    options = RunOptions(segment=SegmentOptions(masks=True))
    again = run_images([cts], bundle=bundle, engine=ENGINE, options=options, out=str(out), resume=True)
    assert [r.case for r in again.skipped] == ["a", "b"] and again.reports == ()
    more = run_images(
        [cts], bundle=bundle, engine=ENGINE, options=replace(options, preview=True), out=out, resume=True
    )
    assert more.skipped == () and len(more.reports) == 2
    result = CliRunner().invoke(run_cli.main, [*(str(word) for word in words), "--resume", "--json"])
    assert json.loads(result.stdout) == {
        "results": [], "errors": [], "counts": {"skipped": 2}, "summary": str(out / "summary.csv"),
    }  # fmt: skip


def test_reports_of_earlier_versions_are_resumed_and_keys_of_later_ones_are_not(bundle, cts, tmp_path):
    """Earlier versions wrote no schema, region, crop, forecast or steps."""
    out = tmp_path / "out"
    run_images(cts, bundle=bundle, engine=ENGINE, out=out)
    path = out / "a_seg.json"
    document = json.loads(path.read_text())
    old = {k: v for k, v in document.items() if k not in {"schema", "region", "crop", "forecast", "steps"}}
    old["windows"].pop("skipped")

    def finished(content):
        path.write_text(json.dumps(content))
        return [r.case for r in run_images(cts, bundle=bundle, engine=ENGINE, out=out, resume=True).skipped]

    assert finished(old) == ["a", "b"]
    assert finished(document | {"unknown": 1}) == ["a", "b"]
    assert finished(document | {"key": document["key"] | {"unknown": 1}}) == ["b"]
    with pytest.raises(GcisError, match="written by a newer gcis"):
        finished(document | {"schema": 2})


def test_a_single_image_needs_no_folder_and_errors_name_what_to_do(bundle, cts, tmp_path):
    result = run_images(cts / "a.nii.gz", bundle=bundle, engine=ENGINE)
    assert (cts / "a_seg.nii.gz").is_file() and result.summary is None and result.reports[0].case == "a"
    for arguments, message in (
        ({"images": cts}, "need -o FOLDER"),
        ({"images": cts, "out": tmp_path / "o", "options": RunOptions(truth=cts / "a.nii.gz")}, "one image"),
        ({"images": cts / "none.nii.gz"}, "does not exist"),
        ({"images": cts / "a.nii.gz", "options": RunOptions(coarse_bundle="none")}, "there is no bundle"),
    ):
        with pytest.raises(GcisError, match=message):
            run_images(**({"bundle": bundle, "engine": ENGINE} | arguments))
    with folder_lock(tmp_path / "o"), pytest.raises(GcisError, match=f"in use.*process {os.getpid()}"):
        run_images(cts, bundle=bundle, out=tmp_path / "o")


def test_a_phantom_is_scored(bundle, tmp_path):
    result = run_phantom(3, out=tmp_path / "demo", bundle=bundle, engine=ENGINE)
    (report,) = result.reports
    assert report.truth == str(tmp_path / "demo" / "phantom_truth.nii.gz")
    assert all(isinstance(s.dice, float) for s in report.structures)


def test_the_guides_example_runs(cts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    code = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)[0]
    exec(compile(code, "python.md", "exec"), {})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["a", "b"]
    assert (tmp_path / "out" / "statistics.csv").is_file()
