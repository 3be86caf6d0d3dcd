"""Import OpenVINO without its telemetry."""

from __future__ import annotations

import importlib
import sys
from typing import Any

_SENDER = "openvino.tools.ovc"


def import_openvino() -> Any:
    """Import the `openvino` package without sending telemetry.

    The package imports its model converter, which reports the import to Intel over the network and writes to
    `~/intel`. The converter is optional and is therefore hidden during the import, which is also faster. It
    can still be imported afterwards.

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
