"""Import OpenVINO without its telemetry."""

from __future__ import annotations

import sys
from typing import Any

from gcis_runtime.engines.package_import import import_package

_SENDER = "openvino.tools.ovc"


def import_openvino() -> Any:
    """Import the `openvino` package without sending telemetry.

    The package imports its model converter, which reports the import to Intel over the network and writes to
    `~/intel`. The converter is optional and is therefore hidden during the import, which is also faster. It
    can still be imported afterwards.

    Raises:
        ImportError: OpenVINO is not installed.
        Exception: See `import_package`.
    """
    if "openvino" in sys.modules or _SENDER in sys.modules:
        return import_package("openvino", needs="Core")
    sys.modules[_SENDER] = None  # type: ignore[assignment]
    try:
        return import_package("openvino", needs="Core")
    finally:
        del sys.modules[_SENDER]
