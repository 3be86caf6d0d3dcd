"""Test the states of jobs: results, errors, crashes, cancellation, retention, and the engine after errors."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gcis_runtime.errors import EngineError, ImageError, MemoryLimitError, OutputError
from gcis_runtime.pipeline.segmenter import Segmenter
from gcis_runtime.serve import runner, work
from gcis_runtime.serve.problems import ServeError
from gcis_runtime.serve.request import JobRequest
from gcis_runtime.serve.store import JobStore
from gcis_runtime.serve.work import CancelledJobError, Room


def submit(service: Any, ct: Path, **options: Any) -> str:
    """Submit a copy of a CT, and return the job."""
    request = JobRequest(**{k: v for k, v in options.items() if k in JobRequest.__struct_fields__})
    rest = {k: v for k, v in options.items() if k not in JobRequest.__struct_fields__}
    with service.incoming() as upload:
        (upload.input / "image.nii.gz").write_bytes(ct.read_bytes())
        return service.submit(upload, request, source="input/image.nii.gz", **rest).id


def test_a_job_has_the_labels_of_a_segmenter(make_service: Any, material: Path, tmp_path: Path) -> None:
    service = make_service()
    ended: list[str] = []
    service.on_end(lambda record: ended.append(f"{record.id} {record.state} {record.origin['node']}"))
    job = submit(service, material / "0.nii.gz", prompt=("liver",), preview=True, origin={"node": "PACS"})
    assert service.wait(job, 60).state == "done"
    files = service.files(job)
    assert set(files) == {"label.nii.gz", "preview.png", "report.json"}
    with Segmenter.open(material / "b.gcis", engine="onnx", prompts=["liver"]) as segmenter:
        segmenter.segment(material / "0.nii.gz").save(tmp_path / "expected.nii.gz")
    assert files["label.nii.gz"].read_bytes() == (tmp_path / "expected.nii.gz").read_bytes()
    view = service.view(job)
    assert view.report is not None and [s["name"] for s in view.report["structures"]] == ["liver"]
    assert view.forecast is not None and view.links["label.nii.gz"] == f"/v1/jobs/{job}/label.nii.gz"
    assert str(tmp_path) not in msgspec.json.encode(view).decode()
    assert ended == [f"{job} done PACS"]


def test_a_path_stays_where_it_is(make_service: Any, material: Path) -> None:
    service = make_service()
    before = sorted(material.iterdir())
    job = service.submit_path(material / "0.nii.gz", JobRequest()).id
    assert service.wait(job, 60).state == "done"
    service.remove(job)
    assert sorted(material.iterdir()) == before


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"prompt": ("xyz",)}, "xyz"),
        ({"bundle": "other"}, "no bundle with that name"),
        ({"roi": "/etc/passwd"}, "region of interest is a path"),
        ({"roi": "1:,:,:", "restore": "published"}, "published"),
        ({"coarse": "other"}, "no bundle with that name"),
        ({"max_memory": "much"}, "not an amount of memory"),
    ],
)
def test_invalid_options_are_refused_before_a_job_exists(
    make_service: Any, material: Path, request_: dict[str, Any], message: str
) -> None:
    service = make_service(start=False)
    with pytest.raises(Exception, match=message):
        submit(service, material / "0.nii.gz", **request_)
    assert service.jobs() == []


def test_a_header_that_needs_too_much_memory_is_refused_with_numbers(
    make_service: Any, material: Path
) -> None:
    service = make_service(start=False)
    with pytest.raises(ServeError, match=r"more memory than is allowed.*[MG]iB.*at most 1 MiB") as caught:
        submit(service, material / "0.nii.gz", max_memory="1M")
    assert (caught.value.status, caught.value.kind) == (413, "MemoryLimitError")
    with pytest.raises(ServeError, match=r"^image\.nii\.gz") as caught:
        submit(service, Path(__file__))
    assert (caught.value.status, caught.value.kind) == (422, "ImageError")


@pytest.mark.parametrize(
    ("error", "status", "renewed"),
    [
        (MemoryError(), 503, True),
        (EngineError("the engine failed"), 500, True),
        (RuntimeError("/home/secret"), 500, True),
        (ImageError("no CT"), 422, False),
        (MemoryLimitError("too large"), 413, False),
    ],
)
def test_a_job_that_fails_leaves_the_service_healthy(
    make_service: Any, material: Path, monkeypatch: pytest.MonkeyPatch, *, error: Exception, status: int,
    renewed: bool,
) -> None:  # fmt: skip
    from gcis_runtime.engines.factory import open_session

    opened = []

    def opener(*arguments: Any, **keywords: Any) -> Any:
        opened.append(arguments)
        return open_session(*arguments, **keywords)

    service = make_service(opener=opener)
    honest = work.segment_case
    failures = [error]

    def failing(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return honest(*arguments)

    monkeypatch.setattr(work, "segment_case", failing)
    job = submit(service, material / "0.nii.gz")
    record = service.wait(job, 60)
    assert (record.state, record.error.status) == ("failed", status)
    assert "secret" not in record.error.detail
    other = submit(service, material / "1.nii.gz")
    assert service.wait(other, 60).state == "done"
    assert service.ready and len(opened) == 1 + renewed


def test_a_job_that_does_not_fit_beside_another_one_runs_again_alone(
    make_service: Any, material: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=30)
    honest, calls = runner.run_job, []

    def first_together(record: Any, *rest: Any) -> Any:
        calls.append(record.id)
        if len(calls) <= 2:
            both.wait()
            if record.source.endswith("image.nii.gz") and calls[0] == record.id:
                raise MemoryLimitError("too large beside another")
        return honest(record, *rest)

    monkeypatch.setattr(runner, "run_job", first_together)
    service = make_service(start=False)
    jobs = [submit(service, material / f"{i}.nii.gz") for i in range(2)]
    service.engines.open_all()
    service.start()
    assert [service.wait(job, 60).state for job in jobs] == ["done", "done"]
    assert len(calls) == 3


def test_a_queued_job_and_a_running_one_are_cancelled(
    make_service: Any, material: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go = threading.Event(), threading.Event()

    def endless(record: Any, folder: Any, results: Any, engines: Any, follower: Any) -> Any:
        started.set()
        while not go.is_set():
            follower.on_progress(work.JobProgress(stage="computing", windows=1, total=9))
            time.sleep(0.01)
        raise AssertionError("not cancelled")

    monkeypatch.setattr(runner, "run_job", endless)
    service = make_service()
    running = [submit(service, material / "0.nii.gz") for _ in range(2)]
    assert started.wait(30)
    queued = submit(service, material / "0.nii.gz")
    assert service.view(queued).position == 0
    assert service.cancel(queued).state == "cancelled"
    for job in running:
        service.cancel(job)
        assert service.wait(job, 30).state == "cancelled"
        assert not service.source(job).exists()
    with pytest.raises(ServeError, match="no such job"):
        service.cancel("0" * 32)


def test_unfinished_jobs_are_queued_again_and_a_job_that_kills_has_failed(
    make_service: Any, material: Path, tmp_path: Path
) -> None:
    first = make_service(start=False)
    jobs = [submit(first, material / f"{i % 2}.nii.gz") for i in range(4)]
    store = JobStore(tmp_path / "jobs")
    store.save(msgspec.structs.replace(first.record(jobs[1]), state="running", attempts=1))
    store.save(msgspec.structs.replace(first.record(jobs[2]), state="running", attempts=3))
    (tmp_path / "jobs" / "incoming" / "half").mkdir()
    second = make_service()
    assert [second.wait(job, 60).state for job in jobs] == ["done", "done", "failed", "done"]
    error = second.record(jobs[2]).error
    assert error.status == 500 and "3 attempts" in error.detail
    assert second.record(jobs[1]).attempts == 2
    assert list((tmp_path / "jobs" / "incoming").iterdir()) == []
    # A process that was killed between the report and the record: the result is not computed again.
    store.save(msgspec.structs.replace(second.record(jobs[0]), state="running", attempts=1))
    assert make_service(start=False).record(jobs[0]).state == "done"


def test_a_job_that_was_cancelled_before_a_crash_does_not_run_again(
    make_service: Any, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go = threading.Event(), threading.Event()

    def endless(record: Any, folder: Any, results: Any, engines: Any, follower: Any) -> Any:
        started.set()
        go.wait(60)
        raise CancelledJobError

    monkeypatch.setattr(runner, "run_job", endless)
    first = make_service()
    job = submit(first, material / "0.nii.gz")
    assert started.wait(30)
    first.cancel(job)
    found = make_service(start=False)  # what the folder contained at this moment, read by the next process
    record = found.record(job)
    assert (record.state, record.cancelled) == ("cancelled", True)
    assert not found.files(job) and not found.source(job).exists()
    go.set()
    assert first.wait(job, 30).state == "cancelled"


def test_a_job_that_has_ended_stays_as_it_is_when_it_is_cancelled(make_service: Any, material: Path) -> None:
    service = make_service()
    job = submit(service, material / "0.nii.gz")
    ended = service.wait(job, 60)
    assert service.cancel(job) == service.record(job) == ended
    assert (ended.state, ended.cancelled) == ("done", False)


def test_a_job_that_ends_while_it_is_cancelled_has_ended(make_service: Any, material: Path) -> None:
    service = make_service(start=False)
    job, board = submit(service, material / "0.nii.gz"), service._board
    record = msgspec.structs.replace(service.record(job), state="running")
    board.update(record)
    canceller = threading.Thread(target=board.cancel, args=(job,))
    with board._saving:
        canceller.start()
        canceller.join(0.2)  # it waits for the lock, or has read the record before
        board._replace(msgspec.structs.replace(record, state="done"))
    canceller.join(30)
    assert service.record(job).state == "done"


def test_a_job_with_a_damaged_record_is_left_out_and_stays(
    make_service: Any, material: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_service(start=False)
    jobs = [submit(first, material / "0.nii.gz") for _ in range(3)]
    folder = tmp_path / "jobs" / "jobs"
    (folder / jobs[0] / "job.json").write_bytes(b"\0" * 300)
    (folder / jobs[1] / "job.json").unlink()
    second = make_service()
    assert second.wait(jobs[2], 60).state == "done"
    for job in jobs[:2]:
        assert f"job {job}: its record is missing or damaged" in caplog.text
        assert (folder / job / "input" / "image.nii.gz").is_file()
        with pytest.raises(ServeError, match="no such job"):
            second.view(job)
    (folder / jobs[0] / "job.json").write_text('{"schema": 2, "id": "later"}')
    with pytest.raises(OutputError, match="newer"):
        make_service(start=False)


def test_a_job_that_did_not_end_before_runs_alone(
    make_service: Any, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_service(start=False)
    jobs = [submit(first, material / "0.nii.gz") for _ in range(3)]
    store = JobStore(tmp_path / "jobs")
    for job in jobs:
        store.save(msgspec.structs.replace(first.record(job), state="running", attempts=1))
    inside: list[str] = []

    def alone(record: Any, *rest: Any) -> None:
        inside.append(record.id)
        assert len(inside) == 1
        time.sleep(0.05)
        inside.remove(record.id)
        raise CancelledJobError

    monkeypatch.setattr(runner, "run_job", alone)
    monkeypatch.setattr("gcis_runtime.serve.board.Board.cancelled", lambda self, job: True)
    second = make_service()
    assert [second.wait(job, 30).state for job in jobs] == ["cancelled"] * 3


def test_old_jobs_and_those_beyond_the_size_are_removed(make_service: Any, material: Path) -> None:
    service = make_service(keep_seconds=100.0, keep_bytes=50_000)
    jobs = [submit(service, material / "0.nii.gz") for _ in range(4)]
    for job in jobs:
        assert service.wait(job, 60).state == "done"
    folders = [service.source(job).parents[1] for job in jobs]
    assert 50_000 // 3 < JobStore(folders[0].parents[1]).size(jobs[0]) < 50_000 // 2, "two jobs fit"
    house = service._runner
    house.expire(time.time())
    left = {record.id for record in service.jobs()}
    assert left == {job for job, folder in zip(jobs, folders, strict=True) if folder.exists()}
    assert len(left) == 2
    house.expire(time.time() + 101)
    assert service.jobs() == [] and not any(folder.exists() for folder in folders)


def test_the_same_key_is_the_same_job(make_service: Any, material: Path) -> None:
    service = make_service(start=False)
    one = submit(service, material / "0.nii.gz", key="k", digest="d")
    assert submit(service, material / "0.nii.gz", key="k", digest="d") == one
    with pytest.raises(ServeError, match="belongs to another job"):
        submit(service, material / "0.nii.gz", key="k", digest="e")
    assert len(service.jobs()) == 1
    assert make_service(start=False)._board.by_key("k", "d").id == one, "the key survives a restart"


def test_a_room_admits_one_alone_or_several() -> None:
    room, order = Room(), []

    def enter(name: str, alone: bool, inside: threading.Event, leave: threading.Event) -> None:
        with room.entered(alone=alone):
            order.append(name)
            inside.set()
            leave.wait(10)

    events = [(threading.Event(), threading.Event()) for _ in range(3)]
    threads = []
    for number, alone in enumerate((False, True, False)):
        threads.append(threading.Thread(target=enter, args=(str(number), alone, *events[number])))
        threads[-1].start()
        time.sleep(0.05)
    assert order == ["0"], "one waits to be alone, and the next one waits for it"
    for inside, leave in events:
        assert inside.wait(10)
        leave.set()
    for thread in threads:
        thread.join()
    assert order == ["0", "1", "2"]
