"""Test what a worker of a cluster does: cases, errors, cases of lost workers, the place of the bundle."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from gcis_runtime import Segmenter
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import ClusterError, GcisError
from gcis_runtime.fleet import ray_cluster
from gcis_runtime.fleet import worker as module
from gcis_runtime.fleet.needs import needs_of
from gcis_runtime.fleet.ray_executor import RayExecutor
from gcis_runtime.fleet.ray_pool import finished
from gcis_runtime.fleet.worker import Order, Worker
from gcis_runtime.images import nifti
from gcis_runtime.pages import renderer
from gcis_runtime.pipeline.options import SegmentOptions
from gcis_runtime.pipeline.report import Report
from gcis_runtime.runs.executor import Model
from gcis_runtime.runs.inputs import find_images
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outputs import plan_jobs
from tests.support.bundles_and_images import write_ct

pytestmark = pytest.mark.usefixtures("own_home", "same_folder")


@pytest.fixture
def same_folder(monkeypatch, tmp_path):
    """Return to the folder of the test run at the end: workers change theirs."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def order(make_bundle, tmp_path):
    bundle = make_bundle()
    return Order(
        bundle=bundle, sha256=open_bundle(bundle).sha256, prompts=(), engine=EngineOptions(engine="onnx"),
        options=RunOptions(), folder=tmp_path, relative=True,
    )  # fmt: skip


@pytest.fixture
def job(tmp_path):
    write_ct(tmp_path / "ct.nii.gz", shape=(20, 18, 16))
    return plan_jobs(find_images([Path("ct.nii.gz")]), "out/")[0]


def opened(order):
    worker = Worker(pickle.loads(pickle.dumps(order)), 1)
    found = worker.open()
    assert found.error == "" and found.identity is not None, found.error
    return worker


def test_a_worker_reports_what_it_computes_with_and_segments(order, job, monkeypatch):
    monkeypatch.chdir("/")
    worker = Worker(order, 1)
    found = pickle.loads(pickle.dumps(worker.open()))
    assert found.identity.bundle.sha256 == order.sha256 and found.identity.engine.threads == 1
    result = worker.run(pickle.loads(pickle.dumps(job)))
    report = msgspec.json.decode(result.report, type=Report)
    assert (report.image, report.labels) == ("ct.nii.gz", "out/ct_seg.nii.gz")  # as the user wrote them
    assert report == msgspec.json.decode((order.folder / job.report).read_bytes(), type=Report)
    assert worker.progress() == []
    assert finished(3, job.name, result).report == report


def test_a_case_that_another_worker_finished_is_not_written_again(order, job, monkeypatch):
    first = opened(order).run(job)
    written = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    late, read = opened(order), module.read_case
    monkeypatch.setattr(module, "read_case", lambda *_: pytest.fail("it was read again"))
    assert late.run(job).report == first.report
    # The other worker finishes it while this one computes.
    report, known = job.report.read_bytes(), []
    job.report.unlink()

    def read_and_finish(*arguments):
        case = read(*arguments)
        known.append(job.report.write_bytes(report))
        return case

    monkeypatch.setattr(module, "read_case", read_and_finish)
    assert late.run(job).report == first.report and known
    assert {p: p.stat().st_mtime_ns for p in Path("out").glob("*.nii.gz")}.items() <= written.items()


def test_a_worker_never_removes_a_report(order, job, monkeypatch):
    worker = opened(order)
    worker.run(job)
    monkeypatch.setattr(module, "finished_report", lambda *_: None)  # the report becomes visible too late

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti, "_write_stream", full)
    result = worker.run(job)
    assert "No space left" in result.error and job.report.is_file() and job.labels.is_file()


def test_errors_of_a_case_are_values(order, job, monkeypatch):
    worker = opened(order)
    job.image.write_bytes(job.image.read_bytes()[:900])
    result = worker.run(job)
    assert result.report is None and not result.unexpected and "ct.nii.gz is damaged" in result.error
    event = finished(1, job.name, result)
    assert isinstance(event.error, GcisError) and str(event.error) == result.error
    monkeypatch.setattr(module, "read_case", lambda *_: 1 // 0)
    event = finished(1, job.name, worker.run(job))
    assert str(event.error).startswith("ZeroDivisionError: ")
    assert "test_worker.py" in event.error.__notes__[0]
    assert "no open engine" in Worker(order, 1).run(job).error


def test_the_bundle_is_found_by_its_content(order, tmp_path, monkeypatch):
    store = tmp_path / "home" / "bundles"
    store.mkdir(parents=True)
    shutil.move(order.bundle, store / "other-name.gcis")
    assert opened(order)
    shutil.rmtree(store)
    assert "is not on this node" in Worker(order, 1).open().error


def test_a_folder_that_the_node_lacks_is_named(order, tmp_path):
    lost = replace(order, folder=tmp_path / "lost")
    assert "the working folder" in Worker(lost, 1).open().error
    assert Worker(replace(lost, relative=False), 1).open().error == ""


def test_an_engine_that_the_node_lacks_is_a_value(order):
    error = Worker(replace(order, engine=EngineOptions(engine="trt", device="cuda")), 1).open().error
    assert error and "Traceback" not in error


def test_pages_and_statistics_need_their_package(order, job, monkeypatch):
    order = replace(order, options=RunOptions(report_html=True, statistics=True))
    report = msgspec.json.decode(opened(order).run(job).report, type=Report)
    assert (report.report_html, report.statistics) == ("out/ct_report.html", "out/ct_seg_statistics.csv")
    assert job.page.is_file() and job.statistics.is_file()
    monkeypatch.setattr(renderer.importlib.util, "find_spec", lambda _name: None)
    assert "without jinja2" in Worker(order, 1).open().error  # the node is left out


def test_needs_follow_from_the_header(make_bundle, tmp_path):
    model = Model(bundle=open_bundle(make_bundle()), prompts=(), engine=EngineOptions(engine="onnx"))

    def needs(shape, *, depth=1, **options):
        image = write_ct(tmp_path / f"{'x'.join(map(str, shape))}.nii.gz", shape=shape)
        (job,) = plan_jobs(find_images([image]), f"{tmp_path}/out/")
        found = needs_of(job, model, RunOptions(segment=SegmentOptions(**options)), depth=depth)
        assert found.least <= found.usual
        return found

    small, large = needs((20, 18, 16)), needs((120, 110, 90))
    assert small.usual < large.usual
    assert needs((120, 110, 90), probabilities=True).usual > large.usual
    assert needs((120, 110, 90), depth=2).usual - large.usual >= 2 * 120 * 110 * 90
    limited = needs((20, 18, 16), max_memory=123 << 20)
    assert (limited.usual, limited.least) == (123 << 20, 123 << 20)
    # The forecast of the open engine, without what the process holds already, is not larger.
    image = tmp_path / "120x110x90.nii.gz"
    forecasts = []
    with Segmenter.open(model.bundle, engine="onnx") as segmenter:
        from gcis_runtime.system.memory import resident_bytes

        before = resident_bytes()
        segmenter.segment(image, on_forecast=forecasts.append)
    assert forecasts[0].host_bytes - before < large.usual


def test_what_cannot_be_sent_is_refused(make_bundle, job):
    bundle = open_bundle(make_bundle())
    with Segmenter.open(bundle, engine="onnx") as other:
        for engine, segment, text in (
            (EngineOptions(device="cuda:1"), SegmentOptions(), "Ray selects the GPU"),
            (EngineOptions(), SegmentOptions(coarse=other), "cannot be sent to other machines"),
        ):
            model = Model(bundle=bundle, prompts=(), engine=engine)
            options = RunOptions(segment=segment)
            with (
                pytest.raises(ClusterError, match=text),
                RayExecutor(address="auto").open(model, options, [job]),
            ):
                pass


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("localhost:6379", "loopback"),
        ("127.0.0.1:6379", "loopback"),
        ("ray://10.0.0.1:10001", "not the address of a Ray cluster"),
        ("10.0.0.1", "not the address of a Ray cluster"),
    ],
)
def test_addresses_that_ray_misunderstands_are_refused(address, text, monkeypatch):
    monkeypatch.setattr(ray_cluster, "find_spec", lambda _name: object())
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ClusterError, match=text), ray_cluster.connected(address):
        pass


def test_without_ray_or_tokens_nothing_is_contacted(monkeypatch):
    monkeypatch.setattr(ray_cluster, "_head", lambda _address: pytest.fail("it was contacted"))
    monkeypatch.setattr(ray_cluster, "find_spec", lambda _name: None)
    with pytest.raises(ClusterError, match=r"not installed. pip install 'gcis\[ray\]'"):
        ray_cluster.connected("auto").__enter__()
    monkeypatch.setattr(ray_cluster, "find_spec", lambda _name: object())
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ClusterError, match=r"RAY_AUTH_MODE=disabled; expected RAY_AUTH_MODE=token"):
        ray_cluster.connected("auto").__enter__()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
