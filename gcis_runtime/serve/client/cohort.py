"""Run cases on a service: the next image is sent while the service computes the previous one."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

from gcis_runtime.errors import GcisError
from gcis_runtime.pipeline.forecast import Forecast
from gcis_runtime.pipeline.identity import BundleIdentity, Identity
from gcis_runtime.pipeline.options import Callbacks
from gcis_runtime.pipeline.report import Report
from gcis_runtime.runs.callbacks import RunCallbacks
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outcome import EXPECTED, Outcome
from gcis_runtime.runs.outputs import Job
from gcis_runtime.serve.client.connection import Connection, error_of
from gcis_runtime.serve.client.downloads import write_results
from gcis_runtime.serve.client.submission import form_of, request_for
from gcis_runtime.serve.views import BundleView

_FIRST_POLL, _LONGEST_POLL = 0.05, 1.0


class RemoteCohort:
    """Runs cases on a service; see `runs.executor.OpenExecutor`.

    Args:
        connection: The service.
        bundle: Name of a bundle of the service; None for the only one, or the one that has the prompts.
        prompts: Structures to segment; all of the bundle's if empty.
        options: What to compute and write for each case.

    Attributes:
        identity: The bundle and the engine of the service.
        notes: Messages about the prompts.

    Raises:
        GcisError: The service does not answer, or has no such bundle or prompts.
    """

    def __init__(
        self, connection: Connection, *, bundle: str | None, prompts: Sequence[str], options: RunOptions
    ) -> None:
        self._connection, self._prompts, self._options = connection, tuple(prompts), options
        view = self._chosen(bundle, self._prompts)
        coarse = None if options.coarse_bundle is None else self._chosen(options.coarse_bundle, ())
        self.identity = _identity(view, coarse)
        self.notes = tuple(view.notes)

    def run(
        self, jobs: Sequence[Job], *, on_done: Callable[[Outcome], None], callbacks: RunCallbacks
    ) -> None:
        """Send, follow and write cases; a case that fails does not stop the others.

        After an interrupt, the jobs of the service are cancelled.
        """
        started: list[str] = []
        with ThreadPoolExecutor(1, thread_name_prefix="gcis-send") as sender:
            ahead = sender.submit(self._send, jobs[0], started) if jobs else None
            try:
                for number, job in enumerate(jobs):
                    current, ahead = ahead, None
                    if number + 1 < len(jobs):
                        ahead = sender.submit(self._send, jobs[number + 1], started)
                    on_done(self._outcome(job, current, callbacks.of(job)))
            except BaseException:
                sender.shutdown(wait=False, cancel_futures=True)
                for path in started:
                    self._connection.delete(path)
                raise

    def _chosen(self, bundle: str | None, prompts: Sequence[str]) -> BundleView:
        query = [("prompt", prompt) for prompt in prompts] + ([] if bundle is None else [("bundle", bundle)])
        found = self._connection.get(f"/v1/bundles?{urlencode([*query, ('only', 'true')])}")
        try:
            (view,) = msgspec.convert(found["bundles"], list[BundleView])
        except (msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
            raise GcisError(
                "the service describes its bundle in a way that this version cannot read",
                received=str(error)[:200],
                fix="Install the same version of gCIS as the service.",
            ) from error
        return view

    def _send(self, job: Job, started: list[str]) -> str:
        """Send a case, and return the path of its job."""
        request = request_for(job, self._options, bundle=self.identity.bundle.name, prompts=self._prompts)
        with tempfile.TemporaryDirectory(prefix="gcis-send-") as scratch:
            form = form_of(job, self._options, request, Path(scratch))
            headers = form.headers | {"Idempotency-Key": secrets.token_hex(16)}
            path = str(self._connection.post("/v1/jobs", form.body, headers)["links"]["self"])
        started.append(path)
        return path

    def _outcome(self, job: Job, sent: Future[str] | None, callbacks: Callbacks) -> Outcome:
        try:
            path = "" if sent is None else sent.result()
            return Outcome(job=job, report=self._report(job, path, callbacks))
        except EXPECTED as error:
            return Outcome(job=job, error=error)

    def _report(self, job: Job, path: str, callbacks: Callbacks) -> Report:
        view = self._followed(path, callbacks)
        if view["state"] != "done":
            problem = view.get("error") or {"error": "GcisError", "detail": f"the job was {view['state']}"}
            raise error_of(problem, _local_names(job, self._options))
        report = write_results(self._connection, view, job, self._options, self.identity)
        self._connection.delete(path)  # the results are here now
        return report

    def _followed(self, path: str, callbacks: Callbacks) -> dict[str, Any]:
        """Call the callbacks until a job has ended, and return it."""
        seen, forecast, pause = 0, False, _FIRST_POLL
        while True:
            view: dict[str, Any] = self._connection.get(path)
            if not forecast and (found := view.get("forecast")) and callbacks.on_forecast is not None:
                forecast = True
                callbacks.on_forecast(msgspec.convert(found, Forecast))
            progress = view.get("progress") or {}
            windows, total = int(progress.get("windows", 0)), int(progress.get("total", 0))
            if view["state"] == "done" and seen:
                windows = total = int(view["report"]["windows"]["total"])
            if windows > seen and callbacks.on_progress is not None:
                seen, pause = windows, _FIRST_POLL
                callbacks.on_progress(windows, total)
            if view["state"] in ("done", "failed", "cancelled"):
                return view
            time.sleep(pause)
            pause = min(_LONGEST_POLL, pause * 1.3)


@contextlib.contextmanager
def open_service(
    url: str, token: bytes | None, *, bundle: str | None, prompts: Sequence[str], options: RunOptions
) -> Iterator[RemoteCohort]:
    """Open a service for cases; see `RemoteCohort`."""
    yield RemoteCohort(Connection(url, token), bundle=bundle, prompts=prompts, options=options)


def _identity(view: BundleView, coarse: BundleView | None) -> Identity:
    if view.engine is None:
        raise GcisError("the engine of the service is not open", fix="Try again when GET /ready succeeds.")

    def of(bundle: BundleView) -> BundleIdentity:
        return BundleIdentity(name=bundle.name, sha256=bundle.sha256, crop=bundle.crop)

    return Identity(
        bundle=of(view), labels=tuple(view.labels), engine=view.engine, tf32=view.tf32,
        coarse=None if coarse is None else of(coarse),
    )  # fmt: skip


def _local_names(job: Job, options: RunOptions) -> dict[str, str]:
    """Return what replaces the names of files of the service in messages."""
    names = {}
    for suffix in (".nii.gz", ".nii.bz2", ".nii", ".nrrd", ".mha", ".zip"):
        names[f"image{suffix}"] = str(job.image)
        names[f"roi{suffix}"] = str(options.segment.roi)
        names[f"truth{suffix}"] = str(options.truth)
    return names
