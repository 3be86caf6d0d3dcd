"""OpenVINO imported without its telemetry."""

from __future__ import annotations

import importlib
import sys
from typing import Any

_SENDER = "openvino.tools.ovc"


def import_openvino() -> Any:
    """Import the `openvino` package without sending anything.

    Importing it imports its model converter, which reports the import to Intel over the network and writes
    `~/intel`. The converter is optional there, so it is hidden for the moment of the import: nothing is
    sent, and the import is faster. Code that wants the converter can still import it afterwards.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    if "openvino" in sys.modules or _SENDER in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[_SENDER] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[_SENDER]
