"""Test that nothing of a patient leaves the folder of a service, through logs or temporary files."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gcis_runtime.cli.serve_log import log_to_stderr
from gcis_runtime.serve import work
from gcis_runtime.serve.http.app import make_app
from gcis_runtime.serve.page import cases
from gcis_runtime.serve.page.routes import page_routes
from tests.support.asgi import ask

NAME = "DOE^JOHN"


@pytest.fixture
def log() -> Iterator[Callable[[], str]]:
    """Return a function that returns what the log of the command contains."""
    names = ("gcis_runtime.serve", "uvicorn.error", "python_multipart")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.level, logger.propagate) for logger in loggers]
    log_to_stderr("gcis-serve")
    stream = io.StringIO()
    loggers[0].handlers[0].setStream(stream)
    yield stream.getvalue
    for logger, (level, propagate) in zip(loggers, before, strict=True):
        logger.handlers.clear()
        logger.setLevel(level)
        logger.propagate = propagate


def test_texts_of_exceptions_are_not_logged(
    make_service: Any, material: Path, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_arguments: Any) -> Any:
        try:
            raise KeyError(NAME)
        except KeyError as error:
            raise ValueError(f"/data/{NAME}.nii") from error

    monkeypatch.setattr(work, "read_case", failing)
    service = make_service()
    job = ask(make_app(service), "POST", "/v1/jobs", (material / "0.nii.gz").read_bytes()).json["id"]
    assert service.wait(job, 60).state == "failed"
    text = log()
    assert NAME not in text
    assert "ValueError" in text and "KeyError" in text and "in failing" in text, "the place is logged"


def test_a_damaged_form_is_not_quoted(make_service: Any, log: Any, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"content-type": "multipart/form-data; boundary=a"}
    ask(make_app(make_service(start=False)), "POST", "/v1/jobs", b"DOE", headers=headers)
    assert not [record for record in caplog.records if record.name.startswith("python_multipart")]


def test_the_image_of_the_page_is_not_written_elsewhere(
    make_service: Any, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, honest = [], cases.write_volume

    def recorded(path: Path, *arguments: Any) -> None:
        seen.append(path)
        honest(path, *arguments)

    monkeypatch.setattr(cases, "write_volume", recorded)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    service = make_service()
    app = make_app(service, routes=page_routes())
    job = ask(app, "POST", "/v1/jobs", (material / "0.nii.gz").read_bytes()).json["id"]
    service.wait(job, 60)
    assert ask(app, "GET", f"/v1/jobs/{job}/image.nii.gz").status == 200
    (path,) = seen
    assert path.is_relative_to(tmp_path / "jobs" / "incoming") and not path.parent.exists()
