"""Test the pages: structure, security, accessibility, pictures, and what gcis-run writes and resumes."""

from __future__ import annotations

import base64
import io
import json
import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import Label
from gcis_runtime.bundles.store import DEMO_FOLDER
from gcis_runtime.cli import run as cli
from gcis_runtime.engines.info import EngineInfo
from gcis_runtime.errors import GcisError
from gcis_runtime.images.volume import Volume
from gcis_runtime.pages import renderer
from gcis_runtime.pages.case import case_page
from gcis_runtime.pages.cohort import Cohort, CohortCase, cohort_page
from gcis_runtime.pipeline.result import Segmentation, measure
from gcis_runtime.runs.callbacks import RunCallbacks
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.run_images import run_elsewhere
from gcis_runtime.runs.summary_page import SummaryPage
from tests.support.bundles_and_images import write_ct
from tests.support.html_document import Document

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)<&'


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    return lambda *args: CliRunner().invoke(cli.main, [*(str(a) for a in args), "--engine", "onnx"])


def segmentation(labels: np.ndarray, names: list[str]) -> Segmentation:
    rng = np.random.default_rng(0)
    image = rng.normal(40, 60, labels.shape).astype(np.int16)
    volume = Volume.from_array(image, affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    structures = [
        Label(value=v, name=name, prompt=name, color=(250, 20 + v % 200, 30))
        for v, name in enumerate(names, 1)
    ]
    counts = dict(enumerate(np.bincount(labels.ravel(), minlength=len(names) + 1).tolist()))
    return Segmentation(
        labels=labels, volume=volume, structures=measure(counts, structures, voxel_ml=0.008),
        restore="smooth", seconds={"network": 1.0}, windows=1, windows_reused=0, peak_memory=10**9,
        bundle="b", bundle_sha256="0" * 64, notice="n", warnings=("something",),
        engine=EngineInfo(name="onnx", version="1", device="cpu", precision="fp32", threads=1),
    )  # fmt: skip


def pictures(page: Document) -> dict[str, np.ndarray]:
    found = {}
    for attributes in page.all("img"):
        data = base64.b64decode(attributes["src"].split(",", 1)[1])
        with Image.open(io.BytesIO(data)) as picture:
            assert (str(picture.width), str(picture.height)) == (attributes["width"], attributes["height"])
            found[attributes["alt"]] = np.asarray(picture).astype(int)
    return found


def test_the_page_of_a_case_is_well_formed_and_shows_every_structure() -> None:
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[20:40, 20:40, 20:40] = 1
    result = segmentation(labels, ["cube", "nothing"])
    made = case_page(result.report(), result, open_bundle(DEMO_FOLDER).manifest)
    page = Document(made.text)
    assert page.problems == []
    assert [(m.value, m.short) for m in made.marks] == [(2, "empty")]
    for text in ("Research software, not a medical device", "something", "No voxel has this label", "64.0"):
        assert text in page.text
    (cube,) = (array for alt, array in pictures(page).items() if "through cube" in alt)
    height, width = cube.shape[0], (cube.shape[1] - 12) // 3
    for panel in range(3):
        middle = cube[height // 2, panel * (width + 6) + width // 2]
        assert middle[0] > middle[1] + 40, "the middle of the structure has its colour"
        corner = cube[height // 10, panel * (width + 6) + width // 10]
        assert np.ptp(corner) < 12, "the surroundings are grey"


def test_a_label_map_without_structures_has_a_page() -> None:
    result = segmentation(np.zeros((20, 20, 20), np.uint8), ["a", "b"])
    page = Document(case_page(result.report(), result, open_bundle(DEMO_FOLDER).manifest).text)
    assert page.problems == [] and "0 of 2" in page.text


def test_a_page_with_104_structures_stays_below_2_mb() -> None:
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 105, (8, 8, 8), dtype=np.uint8)
    labels = coarse.repeat(16, 0).repeat(16, 1).repeat(16, 2)
    labels[:8], labels[-8:] = 0, 0
    result = segmentation(labels, [f"structure {i}" for i in range(104)])
    text = case_page(result.report(), result, open_bundle(DEMO_FOLDER).manifest).text
    assert Document(text).problems == []
    assert len(text) < 2_000_000


def test_nothing_is_requested_and_no_script_runs() -> None:
    result = segmentation(np.ones((8, 8, 8), np.uint8), ["a"])
    text = case_page(result.report(), result, open_bundle(DEMO_FOLDER).manifest).text
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src &#39;none&#39;" in policy and "script" not in policy and "unsafe" not in policy
    broken = Document(
        text.replace("</main>", '<script src="http://x/a.js"></script><p style="color:red"></main>')
    )
    assert {"<script>", "<script src='http://x/a.js'>", "<p style>"} <= set(broken.problems)


def test_hostile_names_are_text(run, make_bundle, tmp_path) -> None:
    bundle = make_bundle(prompts=(HOSTILE, "liver"), name="b")
    (tmp_path / "cts").mkdir()
    name = HOSTILE.replace("/", "")
    write_ct(tmp_path / "cts" / f"{name}.nii.gz", shape=(20, 18, 16))
    write_ct(tmp_path / "cts" / "javascript:alert(1).nii.gz", shape=(20, 18, 16))
    (tmp_path / "cts" / "#%41?.nii.gz").write_bytes(b"x<script>alert(3)</script>")
    out = tmp_path / "out"
    done = run(tmp_path / "cts", "--bundle", bundle, "-o", out, "--report-html")
    assert done.exit_code == 2 and done.stderr.count("error:") == 1
    case, cohort = (
        Document((out / f"{name}_report.html").read_text()),
        Document((out / "summary.html").read_text()),
    )
    assert case.problems == [] and cohort.problems == []
    assert HOSTILE in case.text and name in cohort.text and "b'x<" in cohort.text
    links = {a["href"] for a in cohort.all("a") if a["href"].startswith("./")}
    assert {unquote(link[2:]) for link in links} == {f"{name}_report.html", "javascript:alert(1)_report.html"}
    assert all((out / unquote(link[2:])).is_file() for link in links)


def test_resumed_cases_need_their_page_and_keep_their_picture(run, make_bundle, tmp_path) -> None:
    bundle, out = make_bundle(), tmp_path / "out"
    (tmp_path / "cts").mkdir()
    for seed, name in enumerate("ab"):
        write_ct(tmp_path / "cts" / f"{name}.nii.gz", shape=(20, 18, 16), seed=seed)
    words = [tmp_path / "cts", "--bundle", bundle, "-o", out, "--resume", "--json"]

    def skipped(*more: str) -> int:
        done = run(*words, *more)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["counts"].get("skipped", 0)

    assert skipped() == 0 and not (out / "summary.html").exists()
    assert skipped("--report-html") == 0 and skipped("--report-html") == 2
    assert len(Document((out / "summary.html").read_text()).all("img")) == 2
    (out / "b_report.html").unlink()
    assert skipped("--report-html") == 1 and (out / "b_report.html").is_file()
    report = json.loads((out / "b_seg.json").read_text())
    assert report["report_html"] == str(out / "b_report.html")
    assert report["structures"][0]["statistics"]["voxels"] == report["structures"][0]["voxels"]
    assert "report_html" in report["seconds"] and isinstance(report["marks"], list)
    assert skipped() == 2, "a run without pages accepts results with pages"


def test_a_missing_renderer_is_an_error_before_computing(run, make_bundle, ct, tmp_path, monkeypatch) -> None:
    before = sorted(ct.parent.iterdir())
    bundle = make_bundle()
    monkeypatch.setattr(renderer.importlib.util, "find_spec", lambda _name: None)
    done = run(ct, "--bundle", bundle, "--report-html")
    assert done.exit_code == 2 and 'pip install "gcis[report]"' in done.stderr
    assert sorted(ct.parent.iterdir()) == sorted([*before, bundle])
    elsewhere = partial(run_elsewhere, [ct.parent], nullcontext(), callbacks=RunCallbacks())
    with pytest.raises(GcisError, match="without jinja2"):  # of the page of the run
        elsewhere(options=RunOptions(report_html=True), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert run(ct, "--bundle", bundle).exit_code == 0


def test_an_interrupted_run_leaves_a_current_page(run, make_bundle, tmp_path, monkeypatch) -> None:
    (tmp_path / "cts").mkdir()
    for seed, name in enumerate("abc"):
        write_ct(tmp_path / "cts" / f"{name}.nii.gz", shape=(20, 18, 16), seed=seed)
    update = SummaryPage._update

    def stop_after_two(self: SummaryPage) -> None:
        update(self)
        if self._summary.counts["done"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(SummaryPage, "_update", stop_after_two)
    done = run(tmp_path / "cts", "--bundle", make_bundle(), "-o", tmp_path / "out", "--report-html")
    assert done.exit_code == 130
    page = Document((tmp_path / "out" / "summary.html").read_text())
    assert page.problems == [] and len(page.all("img")) == 2 and "not done" in page.text


def test_a_cohort_shows_failures_outliers_and_an_empty_run() -> None:
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[5:15, 5:15, 5:15] = 1
    report = segmentation(labels, ["thing"]).report()
    cases = [CohortCase(name="broken", image="x", status="failed", error="cannot be read")]
    for i in range(12):
        ml = 400.0 if i == 7 else 30.0 + i % 4
        s = type(report.structures[0])(value=1, name="thing", voxels=5, volume_ml=ml)
        copy = type(report)(**{f: getattr(report, f) for f in report.__struct_fields__} | {"structures": [s]})
        cases.append(CohortCase(name=f"case{i}", image="y", status="done", report=copy, page=f"case{i}.html"))
    values = {
        "bundle": "b", "bundle_sha256": "0", "bundle_notice": "n", "engine": "e", "started": "s",
        "updated": "u", "structures": {1: "thing"},
    }  # fmt: skip
    page = Document(cohort_page(Cohort(cases=tuple(cases), **values)))
    assert page.problems == []
    assert "cannot be read" in page.text and "thing: unusual volume" in page.text
    assert "./case7.html" in [a["href"] for a in page.all("a")]
    assert [a["fill"] for a in page.all("circle")].count("#b3261e") == 1
    assert Document(cohort_page(Cohort(cases=(), **values))).problems == []


PAIRS = (
    ("ink", "#ffffff"), ("soft", "#ffffff"), ("soft", "tint"), ("ink", "tint"), ("link", "#ffffff"),
    ("link", "amber-tint"), ("amber", "amber-tint"), ("ink", "amber-tint"), ("red", "#ffffff"),
    ("red", "red-tint"), ("green", "green-tint"),
)  # fmt: skip


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_has_a_contrast_of_at_least_4_5_to_1() -> None:
    style = (Path(renderer.__file__).parent / "templates" / "style.css.j2").read_text()
    colors = dict(re.findall(r"--([\w-]+):(#\w{6})", style))
    for pair in PAIRS:
        low, high = sorted(luminance(colors.get(name, name)) for name in pair)
        assert (high + 0.05) / (low + 0.05) >= 4.5, pair
    assert luminance("#ffffff") == pytest.approx(1)
