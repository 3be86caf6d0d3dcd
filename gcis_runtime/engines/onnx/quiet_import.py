"""Import ONNX Runtime without its warnings."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from gcis_runtime.engines.package_import import import_package

_STDERR = 2
_MARK = b":onnxruntime:"
"""Part of each line that ONNX Runtime's logger prints: `[W:onnxruntime:Default, device_discovery.cc:164]`."""


def import_onnxruntime() -> Any:
    """Import the `onnxruntime` package and return it; its warnings are printed only with `-v`.

    The package looks for devices while it is imported, before the severity of its logger can be set. In
    containers, where /sys/class/drm is not complete, it prints a warning that needs no action.

    Raises:
        ImportError: ONNX Runtime is not installed.
        Exception: See `import_package`.
    """
    verbose = logging.getLogger("gcis_runtime").isEnabledFor(logging.DEBUG)
    if "onnxruntime" in sys.modules or verbose:
        return import_package("onnxruntime", needs="InferenceSession")
    with _without_warnings():
        return import_package("onnxruntime", needs="InferenceSession")


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Delay what the process prints on standard error, and drop the lines of ONNX Runtime.

    The logger writes to the file descriptor, so that replacing `sys.stderr` would have no effect.
    """
    try:
        saved = os.dup(_STDERR)
    except OSError:  # standard error is closed
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, saved)
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
        except OSError:  # no folder for temporary files
            yield
            return
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(saved, _STDERR)
            held.seek(0)
            kept = b"".join(line for line in held if _MARK not in line)
            with contextlib.suppress(OSError):
                os.write(_STDERR, kept)
