"""Test that a full disk ends jobs with an error, and that no job appears to run for ever."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gcis_runtime.dicom_node.inbox import ReceivedSeries
from gcis_runtime.dicom_node.node import PostponedError
from gcis_runtime.dicom_node.options import NodeOptions
from gcis_runtime.serve import runner
from gcis_runtime.serve.dicom_node import ServiceNode
from gcis_runtime.serve.http.app import make_app
from gcis_runtime.serve.job import JobRecord
from gcis_runtime.serve.problems import problem_of
from gcis_runtime.serve.request import JobRequest
from gcis_runtime.serve.store import JobStore
from gcis_runtime.system.atomic_files import unwritable
from gcis_runtime.system.json_files import decode_json
from tests.support.asgi import ask


def full(path: Path) -> Exception:
    return unwritable(path, OSError(errno.ENOSPC, "No space left on device"))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return an object whose `full` decides whether records can be written."""
    state, honest = SimpleNamespace(full=False), JobStore.save

    def save(store: JobStore, record: JobRecord) -> None:
        if state.full:
            raise full(store.folder)
        honest(store, record)

    monkeypatch.setattr(JobStore, "save", save)
    monkeypatch.setattr(runner, "_PAUSE", 0.05)
    return state


def saved(service: Any, job: str) -> str:
    path = service._store.job_folder(job) / "job.json"
    return decode_json(path.read_bytes(), JobRecord).state


def test_a_job_ends_although_its_record_cannot_be_written(
    make_service: Any, material: Path, disk: SimpleNamespace
) -> None:
    service = make_service(start=False)
    app = make_app(service)
    job = ask(app, "POST", "/v1/jobs", (material / "0.nii.gz").read_bytes()).json["id"]
    disk.full = True
    service.engines.open_all()
    service.start()
    assert service.wait(job, 60).state == "done" and saved(service, job) == "queued"
    assert service._board.running() == 0
    disk.full = False
    limit = time.monotonic() + 60
    while saved(service, job) != "done" and time.monotonic() < limit:
        time.sleep(0.02)
    assert saved(service, job) == "done"


def test_a_removed_job_is_not_written_again(make_service: Any, material: Path, disk: SimpleNamespace) -> None:
    service = make_service(start=False)
    job = ask(make_app(service), "POST", "/v1/jobs", (material / "0.nii.gz").read_bytes()).json["id"]
    disk.full = True
    service.cancel(job)
    service.remove(job)
    disk.full = False
    service._board.save_again()
    assert not list((service._store.folder / "jobs").iterdir())


def test_the_status_is_that_of_a_full_disk_and_no_path_is_shown(tmp_path: Path) -> None:
    problem = problem_of(full(tmp_path), private=((str(tmp_path), "the job"),))
    assert problem.status == 507 and problem.received == "No space left on device"
    problem = problem_of(OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a")))
    assert (problem.status, problem.detail) == (507, "No space left on device")


class FullService:
    """A service whose disk is full."""

    stopping = False
    queue = SimpleNamespace(refuse_if_full=lambda: None)

    def __init__(self, *, accepts: bool) -> None:
        self.accepts = accepts

    def submit_path(self, path: Path, request: JobRequest, **_more: Any) -> JobRecord:
        if not self.accepts:
            raise full(path)
        return JobRecord(
            id="0" * 32, state="failed", created=0, updated=0, bundle="b", request=request, source=str(path),
            error=problem_of(full(path)),
        )  # fmt: skip


@pytest.mark.parametrize("accepts", [True, False])
def test_a_received_series_waits_for_space(tmp_path: Path, *, accepts: bool) -> None:
    series = ReceivedSeries(
        key="k", folder=tmp_path, results=tmp_path, study_uid="1", series_uid="2", caller="PACS", instances=3
    )
    options = NodeOptions(folder=tmp_path, callers=("PACS",))
    node = ServiceNode(node=options, request=JobRequest(), send_to=())
    with pytest.raises(PostponedError, match="cannot be written"):
        node._process(FullService(accepts=accepts), None, series)
