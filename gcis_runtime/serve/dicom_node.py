"""Let a service receive DICOM series: each becomes a job, whose results are sent to other nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from gcis_runtime.dicom_node.destinations import Destination
from gcis_runtime.dicom_node.inbox import ReceivedSeries
from gcis_runtime.dicom_node.node import DicomNode, PostponedError
from gcis_runtime.dicom_node.options import NodeOptions
from gcis_runtime.dicom_node.outbox import Outbox
from gcis_runtime.dicom_node.send import send_files
from gcis_runtime.dicom_node.serve import OUTBOX
from gcis_runtime.errors import ImageError, UnwritableError
from gcis_runtime.serve.job import JobRecord
from gcis_runtime.serve.problems import ServeError
from gcis_runtime.serve.request import JobRequest
from gcis_runtime.serve.service import JobService

_POLL_SECONDS = 1.0
_BUSY = (429, 503)
_LATER = (507,)
"""Statuses of jobs that are worth another attempt: the disk was full."""


@dataclass(frozen=True, kw_only=True)
class ServiceNode:
    """A DICOM node of a service, as a value of `ServeOptions.on_start`.

    Attributes:
        node: What is accepted, and where it is stored.
        request: What to compute for each series.
        send_to: Where results are sent.
        token: Bearer token for DICOMweb servers.
        log: Receives lines with UIDs and AE titles, without anything of the patient.
        on_listen: Called with the port once the node listens.
    """

    node: NodeOptions
    request: JobRequest
    send_to: Sequence[Destination]
    token: str | None = None
    log: Callable[[str], None] = lambda line: None
    on_listen: Callable[[int], None] = lambda port: None

    def __call__(self, service: JobService) -> Callable[[], None]:
        """Start the node; return the function that ends it.

        Raises:
            GcisError: The request is invalid, or the address or folder of the node cannot be used.
        """
        service.check(self.request)
        send = partial(send_files, title=self.node.title, token=self.token)
        outbox = Outbox(self.node.folder / OUTBOX, send=send, destinations=self.send_to, log=self.log)
        with ExitStack() as stack:
            stack.callback(outbox.stop)
            process = partial(self._process, service, outbox)
            node = stack.enter_context(DicomNode(self.node, process, log=self.log))
            outbox.start()
            self.on_listen(node.port)
            return stack.pop_all().close

    def _process(self, service: JobService, outbox: Outbox, series: ReceivedSeries) -> None:
        """Submit a series, wait for its end, and add the results to the outbox.

        A series with the same content, also in an earlier process, has the same key and so the same job.

        Raises:
            ImageError: The job failed.
            PostponedError: The service is busy or stops, or the disk is full.
        """
        record = self._submit(service, series)
        while not record.ended:
            if service.stopping:
                raise PostponedError("the service stops")
            record = service.wait(record.id, _POLL_SECONDS)
        if record.error is not None:
            problem = record.error
            if problem.status in _LATER:
                raise PostponedError(problem.message)
            raise ImageError(
                problem.message, received=problem.received, expected=problem.expected, fix=problem.fix
            )
        if record.state != "done":
            raise ImageError(f"the job {record.id} was {record.state}")
        files = [path for name, path in service.files(record.id).items() if name.endswith(".dcm")]
        for destination in self.send_to if files else ():
            outbox.add(files, destination, key=series.key)

    def _submit(self, service: JobService, series: ReceivedSeries) -> JobRecord:
        key = hashlib.sha256(f"dicom {series.key} {series.digest}".encode()).hexdigest()
        origin = {"node": series.caller, "series": series.key}
        try:
            service.queue.refuse_if_full()
            submit = partial(service.submit_path, series.folder, self.request, origin=origin)
            record = submit(key=key, digest=key)
            # What failed or was cancelled is tried again if the series is sent again.
            return submit() if record.ended and record.state != "done" else record
        except ServeError as error:
            if error.status in _BUSY:
                raise PostponedError(str(error)) from error
            raise
        except UnwritableError as error:
            raise PostponedError(error.message) from error
