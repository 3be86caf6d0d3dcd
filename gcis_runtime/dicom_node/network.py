"""Import pynetdicom, without its log, which may quote what a peer sent."""

from __future__ import annotations

import logging
from typing import Any

from gcis_runtime.dicom.files import load_pydicom
from gcis_runtime.errors import OutputError

# Deflated data could inflate to any size; the other syntaxes that can be read are stored as they arrive.
_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # explicit little endian
    "1.2.840.10008.1.2",  # implicit little endian
    "1.2.840.10008.1.2.2",  # big endian
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.50",  # JPEG
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",  # JPEG-LS
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",  # JPEG 2000
    "1.2.840.10008.1.2.4.91",
)
VERIFICATION = "1.2.840.10008.1.1"


def load_pynetdicom() -> Any:
    """Return pynetdicom.

    Raises:
        OutputError: It is not installed.
    """
    try:
        import pynetdicom  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise OutputError(
            "DICOM over the network needs pynetdicom", received=str(error), fix="pip install 'gcis[dicom]'"
        ) from error
    load_pydicom()
    pynetdicom._config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    return pynetdicom


def storage_contexts() -> list[Any]:
    """Return a presentation context per storage class of the standard, with all transfer syntaxes."""
    pynetdicom = load_pynetdicom()
    build = pynetdicom.presentation.build_context
    classes = [context.abstract_syntax for context in pynetdicom.AllStoragePresentationContexts]
    return [build(uid, list(_SYNTAXES)) for uid in classes]
