"""Answer C-ECHO and C-STORE requests, and write what arrives to an inbox."""

from __future__ import annotations

import contextlib
import io
import socket
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gcis_runtime.dicom.headers import text_of
from gcis_runtime.dicom_node.bounded_socket import BoundedSocket, Budget
from gcis_runtime.dicom_node.completion import Completion
from gcis_runtime.dicom_node.inbox import FullError, Inbox
from gcis_runtime.dicom_node.network import VERIFICATION, load_pynetdicom, storage_contexts
from gcis_runtime.dicom_node.options import NodeOptions
from gcis_runtime.errors import OutputError
from gcis_runtime.text import counted, printable

SUCCESS, NO_RESOURCES, MISMATCH, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
_SERIES_UID = 0x0020000E
_BEFORE_ACCEPTANCE = 1 << 20
"""Bytes that a peer may send before its association is accepted; a request has about 30 kB."""
_MESSAGE = 1 << 20
"""Bytes that a message may have besides the instance: the command and the headers of PDUs."""
_TIMEOUT = 60.0
"""Seconds after which a connection is closed on which nothing arrives."""


@dataclass(kw_only=True)
class _Peer:
    """A connected peer: its socket, whether it was refused, whether it asked for an association, and the
    number of instances that it sent.
    """

    socket: BoundedSocket
    refused: bool
    requested: bool = False
    instances: int = 0


class Receiver:
    """Listens for associations. Errors of peers are answered with a status and logged in one line.

    Args:
        options: What is accepted.
        inbox: Where instances are written.
        completion: Receives the arrival of instances and the end of associations.
        log: Receives lines, which contain UIDs and AE titles, and nothing of the patient.

    Attributes:
        port: Port, once `start` was called.
    """

    def __init__(
        self, options: NodeOptions, inbox: Inbox, completion: Completion, log: Callable[[str], None]
    ) -> None:
        self._options, self._inbox, self._completion, self._log = options, inbox, completion, log
        self._server: Any = None
        self._budget = Budget(options.waiting_bytes, connections=options.associations)
        self._peers: weakref.WeakKeyDictionary[Any, _Peer] = weakref.WeakKeyDictionary()
        self.port = options.port

    def start(self) -> None:
        """Start to listen.

        Raises:
            OutputError: pynetdicom is not installed, or the address cannot be used.
        """
        pynetdicom = load_pynetdicom()
        options = self._options
        ae = pynetdicom.AE(ae_title=options.title)
        ae.require_called_aet = True
        ae.require_calling_aet = list(options.callers)
        ae.maximum_associations = options.associations
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = _TIMEOUT
        ae.supported_contexts = storage_contexts()
        ae.add_supported_context(VERIFICATION)
        evt = pynetdicom.evt
        handlers = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_C_ECHO, lambda _event: SUCCESS),
            (evt.EVT_C_STORE, self._store),
        ]
        try:
            self._server = ae.start_server((options.host, options.port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise OutputError(
                f"the DICOM node cannot listen on {options.host}, port {options.port}",
                received=error.strerror or type(error).__name__,
                fix="Choose another port or address.",
            ) from error
        self.port = int(self._server.server_address[1])

    def stop(self) -> None:
        """Stop to listen; associations are aborted."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _opened(self, event: Any) -> None:
        """Refuse connections from other networks and too many of them, and bound what a peer may send."""
        connection = event.assoc.dul.socket
        found: socket.socket = connection.socket
        found.settimeout(_TIMEOUT)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else 40 ms per instance
        address = str(event.address[0])
        reason = ""
        if not self._options.admits(address):
            reason = "it is in no network that may connect"
        elif len(self._server.active_associations) >= 2 * self._options.associations:
            reason = "there are too many connections"
        connection.socket = BoundedSocket(found, -1 if reason else _BEFORE_ACCEPTANCE, self._budget)
        if reason:
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)
            self._log(f"refused a connection from {address}: {reason}")
        self._peers[event.assoc] = _Peer(socket=connection.socket, refused=bool(reason))

    def _requested(self, event: Any) -> None:
        self._peers[event.assoc].requested = True

    def _accepted(self, event: Any) -> None:
        self._peers[event.assoc].socket.allow(self._options.instance_bytes + _MESSAGE)

    def _rejected(self, event: Any) -> None:
        self._log(
            f"rejected an association of {_caller(event)}: its AE title, that of this node, or too many"
        )

    def _closed(self, event: Any) -> None:
        peer = self._peers.pop(event.assoc, None)
        self._completion.ended(id(event.assoc))
        if peer is None:
            return
        peer.socket.allow(0)  # its bytes do not wait any more
        if not peer.requested:
            # Else its thread waits for a request until the time is over, and counts as an association.
            event.assoc.dul.to_user_queue.put(None)
        if peer.socket.exceeded and not peer.refused:
            self._log(f"ended a connection with {_caller(event)}: it sent more than is allowed")
        if peer.instances:
            self._log(f"received {counted(peer.instances, 'instance')} from {_caller(event)}")

    def _store(self, event: Any) -> int:
        """Write an instance; return the status of the answer."""
        peer = self._peers[event.assoc]
        status = self._save(event, event.encoded_dataset())
        if status == SUCCESS:
            peer.instances += 1
        peer.socket.allow(self._options.instance_bytes + _MESSAGE)
        return status

    def _save(self, event: Any, data: bytes) -> int:
        uids = _uids(event)
        if uids is None or not all(uids):
            self._log(f"refused an instance of {_caller(event)} without valid UIDs")
            return NOT_UNDERSTOOD
        study, series, instance = uids
        if instance != str(event.request.AffectedSOPInstanceUID):
            self._log(f"refused an instance of {_caller(event)} with another UID than the request")
            return MISMATCH
        try:
            key = self._inbox.save(
                data, study_uid=study, series_uid=series, instance_uid=instance, caller=_caller(event)
            )
        except (FullError, OutputError, OSError) as error:
            self._log(f"refused an instance of series {series}: {error}")
            return NO_RESOURCES
        self._completion.arrived(key, time.monotonic(), sender=id(event.assoc))
        return SUCCESS


def _caller(event: Any) -> str:
    """Return the AE title of the peer as printable text."""
    return printable(str(event.assoc.requestor.ae_title).strip() or "unknown")


def _uids(event: Any) -> tuple[str, str, str] | None:
    """Return the UIDs of study, series and instance; None if the data set is damaged."""
    from pydicom.filereader import read_dataset  # noqa: PLC0415 (optional)
    from pydicom.uid import UID  # noqa: PLC0415

    syntax = UID(event.context.transfer_syntax)
    try:
        dataset = read_dataset(
            io.BytesIO(event.request.DataSet.getbuffer()),
            syntax.is_implicit_VR,
            syntax.is_little_endian,
            stop_when=lambda tag, _vr, _length: tag > _SERIES_UID,
        )
        names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        study, series, instance = (text_of(dataset, name) for name in names)
    except Exception:  # pydicom raises many types for damaged data
        return None
    return (study, series, instance) if all(UID(uid).is_valid for uid in (study, series, instance)) else None
