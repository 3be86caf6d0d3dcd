"""End a command on SIGINT and SIGTERM: the first signal interrupts Python, the second one ends the process.

Python handles a signal only between two of its own instructions. A call into a library that does not return,
such as an engine that compiles a graph, would make the process immune to everything but SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from gcis_runtime import platforms
from gcis_runtime.system.unfinished import remove_unfinished

INTERRUPTED_EXIT = 130
_SAME = 0.3
"""Seconds within which a signal counts as the first one again: `timeout` signals a process and its group."""
_PATIENCE = 1.0
"""Seconds that Python has to end after the second signal, before the process is ended."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Handle SIGTERM (from a scheduler, `timeout`, or a stopping container) like Ctrl-C, and watch for more.

    By default SIGTERM ends the process immediately, and temporary files remain: hundreds of megabytes during
    an export. On a second signal the temporary files are removed and the process ends with exit code 130. A
    training installs handlers of its own, which are not replaced.
    """
    if threading.current_thread() is not threading.main_thread():  # a command called from Python
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.nullcontext() if platforms.WINDOWS else _watched():
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Run a thread that receives the number of each signal, even if the main thread does not run Python.

    Windows passes signals to sockets only, and is left out.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(read, ended), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(write)  # ends the thread
        thread.join()
        os.close(read)


def _watch(read: int, ended: threading.Event) -> None:
    """End the process on the second signal that would interrupt Python."""
    first: float | None = None
    while numbers := os.read(read, 1):
        if not _interrupts(numbers[0]):
            continue
        now = time.monotonic()
        if first is None:
            first = now
        elif now - first > _SAME:
            if not ended.wait(_PATIENCE):
                _end()
            return


def _interrupts(number: int) -> bool:
    """Return whether a signal raises KeyboardInterrupt; a training saves its state instead."""
    return number in (signal.SIGINT, signal.SIGTERM) and signal.getsignal(number) in (
        _interrupt,
        signal.default_int_handler,
    )


def _end() -> None:
    """End the process without returning to the code that does not end."""
    remove_unfinished()
    with contextlib.suppress(OSError):
        os.write(2, b"ended by a second signal\n")
    os._exit(INTERRUPTED_EXIT)
