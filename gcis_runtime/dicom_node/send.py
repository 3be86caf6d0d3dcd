"""Send DICOM files: by C-STORE to a node, or by STOW-RS to a DICOMweb server."""

from __future__ import annotations

import http.client
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gcis_runtime.dicom_node.destinations import Destination, NodeDestination, WebDestination
from gcis_runtime.dicom_node.network import load_pynetdicom
from gcis_runtime.errors import OutputError

_TIMEOUT = 60.0
_WARNINGS = frozenset({0xB000, 0xB006, 0xB007})
"""Statuses of instances that were stored, some elements of them changed."""
_FAILED = "00081198"
_MOST_ANSWER = 1 << 20


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: token and data are for the server that the operator named."""

    def redirect_request(self, *_arguments: Any) -> None:
        """Return no request, so that the redirect is an error."""


_OPENER = urllib.request.build_opener(_NoRedirects)


def send_files(
    files: Sequence[Path], destination: Destination, *, title: str = "GCIS", token: str | None = None
) -> None:
    """Send files; sending them again replaces them, since their UIDs stay the same.

    Args:
        files: DICOM files.
        destination: Where to.
        title: AE title of the sender.
        token: Bearer token for a DICOMweb server.

    Raises:
        OutputError: The destination cannot be reached, or refused a file.
    """
    if isinstance(destination, NodeDestination):
        _store(files, destination, title)
        return
    for file in files:
        _stow(file, destination, token)


def _store(files: Sequence[Path], node: NodeDestination, title: str) -> None:
    pynetdicom = load_pynetdicom()
    from pydicom import dcmread  # noqa: PLC0415 (optional)

    datasets = [dcmread(file) for file in files]
    ae = pynetdicom.AE(ae_title=title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = _TIMEOUT
    for ds in datasets:
        ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
    association = ae.associate(node.host, node.port, ae_title=node.title)
    if not association.is_established:
        reason = "it rejected the association" if association.is_rejected else "no connection"
        raise _refused(node, reason, "Check address and AE titles on both sides.")
    try:
        for ds in datasets:
            try:
                status = association.send_c_store(ds)
            except ValueError as error:  # no presentation context was accepted
                name = ds.SOPClassUID.name
                raise _refused(
                    node, f"it does not accept {name}", "Configure the node to store it."
                ) from error
            code = status.get("Status") if status else None
            if code != 0 and code not in _WARNINGS:
                reason = "the connection ended" if code is None else f"status {code:#06x}"
                raise _refused(node, reason, "Read the log of the node.")
    finally:
        if association.is_established:
            association.release()


def _stow(file: Path, server: WebDestination, token: str | None) -> None:
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = head + file.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "Accept": "application/dicom+json",
    }
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"{server.url}/studies", data=body, headers=headers)
    try:
        with _OPENER.open(request, timeout=_TIMEOUT) as answer:
            found: Any = json.loads(answer.read(_MOST_ANSWER) or b"{}")
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(server, f"HTTP status {error.code}", "Read the log of the server.") from error
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        raise _refused(
            server, str(error) or type(error).__name__, "Check the URL, and that it speaks DICOMweb."
        ) from error
    failed = found.get(_FAILED) if isinstance(found, dict) else {"Value": ["no answer"]}
    if isinstance(failed, dict) and failed.get("Value"):  # the sequence may be there and empty
        raise _refused(server, "it did not store the file", "Read the log of the server.")


def _refused(destination: Destination, reason: str, fix: str) -> OutputError:
    return OutputError(f"{destination} did not take the results", received=reason, fix=fix)
