"""Run an ONNX Runtime session on bound device buffers, and free both in an order that CUDA permits.

ONNX Runtime frees the page-locked buffers of a run in a host function on the stream. If that function holds
the last reference to their allocator, it calls cudaFreeHost, which CUDA does not permit there (error 800),
and the process is aborted. `docs/decisions/0026-gpu-without-pytorch.md` explains when this happens.
"""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort

from gcis_runtime.engines.gpu.device import Device
from gcis_runtime.engines.onnx.loading import as_engine_error
from gcis_runtime.errors import EngineError


@dataclass(eq=False)
class BoundSession:
    """A session, its binding, and the device whose stream and buffers both use.

    Attributes:
        gpu: The GPU; it owns the stream and the buffers, and is closed with the session.
        stream: Stream that the session computes in.
        session: The session; None before it is loaded and after `close`.
        binding: Binding of the graph's input and output to device buffers.
        options: Options of every run.
        failed: Whether a run ended with an error, so that the session cannot be destroyed safely.
    """

    gpu: Device
    stream: Any = None
    session: ort.InferenceSession | None = None
    binding: Any = None
    options: Any = None
    failed: bool = False

    def run(self) -> None:
        """Run the session once, and wait for the end.

        Raises:
            EngineError: The session is closed, or the run failed.
            DeviceMemoryError: The device has too little memory.
        """
        if self.session is None:
            raise EngineError(
                "the session is closed",
                received="a closed session",
                expected="an open session",
                fix="Open the bundle again.",
            )
        try:
            self.session.run_with_iobinding(self.binding, self.options)
        except Exception as error:  # ONNX Runtime's errors derive from Exception alone
            self.failed = True
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
