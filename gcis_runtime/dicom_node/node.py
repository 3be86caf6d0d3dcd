"""A DICOM node: receive series, and pass each to a function once it is complete."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

from gcis_runtime.dicom_node.completion import Completion
from gcis_runtime.dicom_node.inbox import Inbox, ReceivedSeries
from gcis_runtime.dicom_node.options import NodeOptions
from gcis_runtime.dicom_node.receiver import Receiver
from gcis_runtime.errors import GcisError
from gcis_runtime.system.folder_lock import folder_lock
from gcis_runtime.text import counted, error_text

_CLEAN_SECONDS = 60.0
_POLL_SECONDS = 0.2


class PostponedError(Exception):
    """A series cannot be processed now; it is passed again later, and by the next process."""


class DicomNode:
    """A node that answers C-ECHO and C-STORE; a context manager that listens while it is open.

    Complete series are passed to `on_series` one after another, in a thread of the node. A series is finished
    when the function returns. A `GcisError` ends it; after another exception, and after the end of the
    process, it is passed again, a limited number of times except for `PostponedError`. Instances that arrive
    later are added to the series, which is then passed again as a whole.

    Args:
        options: What is accepted, and where it is stored.
        on_series: Processes a series, whose folder stays until the function returns.
        log: Receives lines with UIDs and AE titles, without anything of the patient.
    """

    def __init__(
        self,
        options: NodeOptions,
        on_series: Callable[[ReceivedSeries], None],
        *,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.options = options
        self._on_series, self._log = on_series, log
        self._completion = Completion(quiet_seconds=options.quiet_seconds, at_release=options.at_release)
        self._pending: deque[str] = deque()
        self._stopped = threading.Event()
        self._stack = ExitStack()

    @property
    def port(self) -> int:
        """Port on which the node listens."""
        return self._receiver.port

    def __enter__(self) -> DicomNode:
        """Lock the folder, queue series that an earlier process did not finish, and listen.

        Raises:
            OutputError: The folder is used by another node or cannot be written, the address cannot be used,
                or pynetdicom is not installed.
        """
        options = self.options
        with ExitStack() as stack:
            self._inbox = Inbox(
                options.folder, series_bytes=options.series_bytes, most_series=options.most_series,
                reserve_bytes=options.reserve_bytes,
            )  # fmt: skip
            stack.enter_context(folder_lock(options.folder))
            for key in self._inbox.unfinished():
                self._completion.arrived(key, time.monotonic())
            self._receiver = Receiver(options, self._inbox, self._completion, self._log)
            self._receiver.start()
            worker = threading.Thread(target=self._work, name="gcis-series", daemon=True)
            worker.start()
            stack.callback(worker.join)
            stack.callback(self._stopped.set)
            stack.callback(self._receiver.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to listen, and wait for the series that is being processed; others wait for the next start."""
        self._stack.close()

    def _work(self) -> None:
        cleaned = float("-inf")
        while not self._stopped.wait(0 if self._pending else _POLL_SECONDS):
            now = time.monotonic()
            try:
                if now - cleaned >= _CLEAN_SECONDS:
                    self._inbox.remove_finished(older_than=self.options.keep_seconds)
                    cleaned = now
                self._pending.extend(self._completion.take_complete(now))
                if self._pending:
                    self._process(self._pending.popleft())
            except Exception as error:  # such as a full disk: the node must go on
                self._log(f"error in the node: {_safe_text(error)}")

    def _process(self, key: str) -> None:
        series, attempt = self._inbox.start(key)
        name = f"series {series.series_uid} of {series.caller}"
        if attempt > self.options.attempts:
            self._inbox.finish(series, error="the process ended while it was processed")
            self._log(f"{name} is given up: the process ended {self.options.attempts} times")
            return
        self._log(f"{name} is complete: {counted(series.instances, 'instance')}")
        try:
            self._on_series(series)
        except PostponedError as error:
            self._inbox.postpone(key)
            self._completion.arrived(key, time.monotonic())
            self._log(f"{name} is postponed: {error_text(error)}")
        except GcisError as error:
            self._inbox.finish(series, error=error_text(error))
            self._log(f"{name} failed: {error_text(error)}")
        except Exception as error:
            text = _safe_text(error)
            if attempt < self.options.attempts:
                self._log(f"{name} failed and is tried again: {text}")
                self._completion.arrived(key, time.monotonic())
                return
            self._inbox.finish(series, error=text)
            self._log(f"{name} failed: {text}")
        else:
            self._inbox.finish(series)


def _safe_text(error: Exception) -> str:
    """Return the class of an unexpected error; its text may quote the file of a patient."""
    return error_text(error) if isinstance(error, GcisError) else type(error).__name__
