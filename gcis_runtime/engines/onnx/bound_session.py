"""Run an ONNX Runtime session on bound device buffers, and free both in an order that CUDA permits.

ONNX Runtime frees the page-locked buffers of a run in a host function on the stream. If that function holds
the last reference to their allocator, it calls cudaFreeHost, which CUDA does not permit there (error 800),
and the process is aborted. `docs/decisions/0026-gpu-without-pytorch.md` explains when this happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from dataclasses import dataclass, field
from typing import Any

import onnxruntime as ort

from gcis_runtime.engines.gpu.device import Device
from gcis_runtime.engines.onnx.loading import as_engine_error
from gcis_runtime.errors import EngineError

_GRAPH_ID, _NO_GRAPH = "gpu_graph_id", "-1"
"""Run option of ONNX Runtime that selects a CUDA graph, and its value for a run without one."""


def _without_graph() -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
    return options


@dataclass(eq=False)
class BoundSession:
    """A session, its binding, and the device whose stream and buffers both use.

    With `recorded`, ONNX Runtime records a CUDA graph at the first run, and replays it later. It keeps one
    graph per thread and documents the use of one thread only. Runs in other threads than the first are
    therefore not recorded.

    Attributes:
        gpu: The GPU; it owns the stream and the buffers, and is closed with the session.
        recorded: Whether the session was loaded with `enable_cuda_graph`.
        stream: Stream that the session computes in.
        session: The session; None before it is loaded and after `close`.
        binding: Binding of the graph's input and output to device buffers.
        options: Options of every run.
        failed: Whether a run ended with an error, so that the session cannot be destroyed safely.
    """

    gpu: Device
    recorded: bool = False
    stream: Any = None
    session: ort.InferenceSession | None = None
    binding: Any = None
    options: Any = None
    failed: bool = False
    _thread: threading.Thread | None = None
    _unrecorded: ort.RunOptions = field(default_factory=_without_graph)

    def run(self) -> None:
        """Run the session once, and wait for the end.

        Raises:
            EngineError: The session is closed, or the run failed.
            DeviceMemoryError: The device has too little memory.
        """
        if self._thread is None:
            self._thread = threading.current_thread()
        same = self._thread is threading.current_thread() and not self.failed
        self._run(self._unrecorded if self.recorded and not same else self.options)

    def _run(self, options: Any) -> None:
        if self.session is None:
            raise EngineError(
                "the session is closed",
                received="a closed session",
                expected="an open session",
                fix="Open the bundle again.",
            )
        try:
            self.session.run_with_iobinding(self.binding, options)
        except Exception as error:  # ONNX Runtime's errors derive from Exception alone
            self.failed = True
            if self.recorded:
                with contextlib.suppress(EngineError):  # a GPU that failed fails here too
                    self.gpu.abandon_capture(self.stream)
            # Without the traceback, whose frames would keep the session alive beyond `close`.
            failure = as_engine_error(error, "ONNX Runtime failed on a window")
            raise failure from error.with_traceback(None)

    def close(self) -> None:
        """Free binding, session, buffers, stream and context, in this order.

        The work in the stream ends before the session is destroyed, and the host functions that its
        destructor queues end before the stream is destroyed. May be called again, and in any thread.

        Raises:
            EngineError: The GPU failed.
        """
        if self.gpu.closed:
            return
        with contextlib.ExitStack() as stack:
            stack.callback(self.gpu.close)  # also after an error
            stack.enter_context(self.gpu.current())
            try:
                self._finish()
                self._release_buffers()
            finally:
                if self.session is not None and self.failed:
                    _keep_until_exit(self.session)
                self.binding = self.session = self.options = None
            self._finish()

    def _finish(self) -> None:
        """Wait for the work in the stream; an error of an earlier kernel is raised here."""
        if self.stream is None:
            return
        try:
            self.gpu.finish(self.stream)
        except EngineError:
            self.failed = True
            raise

    def _release_buffers(self) -> None:
        """Run once more after a run that failed: a run that succeeds also frees the buffers of earlier runs.

        It may succeed because the memory of the volume was freed since.
        """
        if self.session is None or not self.failed:
            return
        with contextlib.suppress(EngineError):
            self.run()
            self.failed = False


def _keep_until_exit(session: ort.InferenceSession) -> None:
    """Keep a session for the life of the process: it is never destroyed, and its memory stays in use.

    After a run that failed, ONNX Runtime still holds page-locked buffers of that run. Only the destructor
    would free them, in a host function that may outlive their allocator.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
