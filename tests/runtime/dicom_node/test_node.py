"""Test the node with a sender in another process: what is stored, refused, and when series are complete."""

from __future__ import annotations

import queue
import shutil
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from gcis_runtime.dicom.study import read_dicom
from gcis_runtime.dicom_node.bounded_socket import BoundedSocket, Budget
from gcis_runtime.dicom_node.inbox import Inbox, ReceivedSeries
from gcis_runtime.dicom_node.node import DicomNode
from gcis_runtime.dicom_node.options import NodeOptions
from gcis_runtime.errors import ImageError, OutputError
from gcis_runtime.images.volume import Volume
from tests.runtime.dicom_node.sender import send
from tests.support.dicom_series import PATIENT, ROOT, Coding, slices_of, write

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def ct() -> Volume:
    rng = np.random.default_rng(5)
    affine = np.array([[-2.0, 0, 0, 50], [0, -1.5, 0, 30], [0, 0, 3, -10], [0, 0, 0, 1]])
    return Volume(array=rng.integers(-1000, 1500, (40, 34, 6)).astype(np.int16), affine=affine)


class Seen:
    """Receives series; raises errors that were put in before."""

    def __init__(self) -> None:
        self.series: queue.Queue[ReceivedSeries] = queue.Queue()
        self.errors: list[Exception] = []
        self.lines: list[str] = []

    def __call__(self, series: ReceivedSeries) -> None:
        self.series.put(series)
        if self.errors:
            raise self.errors.pop(0)

    def next(self) -> ReceivedSeries:
        return self.series.get(timeout=60)

    def wait_for(self, text: str) -> None:
        for _ in range(600):
            if any(text in line for line in self.lines):
                return
            time.sleep(0.1)
        raise AssertionError(self.lines)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def node(tmp_path: Path, seen: Seen) -> Callable[..., DicomNode]:
    def made(**values: Any) -> DicomNode:
        defaults = {"folder": tmp_path / "node", "callers": ("PACS", "CT1"), "port": 0, "at_release": True}
        return DicomNode(
            NodeOptions(**{**defaults, "reserve_bytes": 0, **values}), seen, log=seen.lines.append
        )

    return made


def test_series_in_every_transfer_syntax_arrive_unchanged_under_private_names(
    node: Callable[..., DicomNode], seen: Seen, ct: Volume, tmp_path: Path
) -> None:
    syntaxes = [
        None,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ]
    for number, syntax in enumerate(syntaxes, start=2):
        coding = Coding() if syntax is None else Coding(syntax=syntax)
        write(
            slices_of(ct, coding=coding, series=number),
            tmp_path / "sent",
            names=lambda k, n=number: f"{n}_{k}",
        )
    with node() as listening:
        answer = send(listening.port, tmp_path / "sent")
        assert answer["association"] == "released" and answer["echo"] == 0
        assert set(answer["store"].values()) == {0} and len(answer["store"]) == 6 * 6
        found = {series.series_uid: series for series in (seen.next() for _ in syntaxes)}
    assert set(found) == {f"{ROOT}{n}" for n in range(2, 8)}
    for series in found.values():
        assert np.array_equal(read_dicom(series.folder).array, ct.array)
        assert (series.caller, series.instances, series.study_uid) == ("PACS", 6, f"{ROOT}1")
    sent = pydicom.dcmread(tmp_path / "sent" / "7_0")
    back = [pydicom.dcmread(f) for f in found[f"{ROOT}7"].folder.glob("*.dcm")]
    (same,) = [ds for ds in back if ds.SOPInstanceUID == sent.SOPInstanceUID]
    assert same == sent and same.file_meta.TransferSyntaxUID == JPEG2000Lossless
    names = [str(path.relative_to(tmp_path / "node")) for path in (tmp_path / "node").rglob("*")]
    assert not any(word in name for name in names for word in ("Muster", "4711", ROOT))
    assert stat.S_IMODE((tmp_path / "node").stat().st_mode) == 0o700
    assert not any(word in line for line in seen.lines for word in ("Muster", PATIENT, "4711"))
    assert "received 36 instances from PACS" in seen.lines


def test_who_may_connect(node: Callable[..., DicomNode], seen: Seen) -> None:
    with node() as listening:
        assert send(listening.port, calling="CT1") == {"association": "released", "echo": 0, "store": {}}
        assert send(listening.port, calling="OTHER") == {"association": "rejected"}
        assert send(listening.port, called="ANYTHING") == {"association": "rejected"}
        seen.wait_for("rejected an association of OTHER")
    with node(peers=("10.0.0.0/8",)) as listening:
        assert send(listening.port)["association"] == "aborted"
        seen.wait_for("refused a connection from 127.0.0.1: it is in no network that may connect")


def test_a_full_disk_and_a_large_series_are_answered_with_a_status(
    node: Callable[..., DicomNode], seen: Seen, ct: Volume, tmp_path: Path
) -> None:
    sent = write(slices_of(ct), tmp_path / "sent")
    size = next(sent.iterdir()).stat().st_size
    with node(series_bytes=4 * size + 1000) as listening:
        statuses = list(send(listening.port, sent)["store"].values())
        assert statuses == [0] * 4 + [0xA700] * 2
        assert seen.next().instances == 4
        seen.wait_for(f"refused an instance of series {ROOT}2: the series is larger than allowed")
    free = shutil.disk_usage(tmp_path).free
    with node(folder=tmp_path / "full", reserve_bytes=2 * free) as listening:
        assert set(send(listening.port, sent)["store"].values()) == {0xA700}
        seen.wait_for("the disk is full")
    assert not list((tmp_path / "full").rglob("*.dcm"))


def large_instance(ct: Volume) -> list[Any]:
    """Return one instance of 8 MiB."""
    large = slices_of(ct)[:1]
    large[0].add_new(0x00091010, "OB", bytes(8 << 20))
    return large


def test_more_than_is_allowed_ends_the_connection_within_bounded_memory(
    node: Callable[..., DicomNode], seen: Seen, ct: Volume, tmp_path: Path
) -> None:
    with node(instance_bytes=1 << 20) as listening:
        answer = send(listening.port, write(large_instance(ct), tmp_path / "sent"))
        assert set(answer["store"].values()) == {None} and answer["echo"] == 0
        seen.wait_for("ended a connection with PACS: it sent more than is allowed")
        with socket.create_connection(("127.0.0.1", listening.port), timeout=60) as peer:
            peer.sendall(struct.pack(">BBL", 1, 0, 1 << 31))  # announces 2 GiB before it is accepted
            sent = 0
            with pytest.raises(OSError, match=r"."):
                while sent < 1 << 28:
                    peer.sendall(bytes(1 << 20))
                    sent += 1 << 20
            assert sent < 1 << 26
        assert send(listening.port)["echo"] == 0  # others are served on
    assert seen.series.empty()


def test_connections_together_are_bounded_and_the_small_ones_go_on() -> None:
    budget = Budget(1000, connections=2)
    pairs = [socket.socketpair() for _ in range(2)]
    large, small = (BoundedSocket(own, 10_000, budget) for own, _ in pairs)
    pairs[0][1].sendall(bytes(3000))
    pairs[1][1].sendall(bytes(400))
    assert len(small.recv(50)) == 50
    assert len(large.recv(900)) == 900
    assert len(large.recv(200)) == 200  # 1150 bytes wait, more than 1000
    assert large.recv(200) == b"" and large.exceeded
    assert len(small.recv(350)) == 350 and not small.exceeded
    large.allow(0)  # closed: its bytes do not wait any more
    pairs[1][1].sendall(bytes(700))
    assert len(small.recv(500)) == 500  # 900 bytes wait
    assert len(small.recv(200)) == 200 and small.recv(1) == b""
    for pair in pairs:
        for end in pair:
            end.close()


def test_a_connection_that_ended_has_no_share_of_the_budget(
    node: Callable[..., DicomNode], seen: Seen, ct: Volume, tmp_path: Path
) -> None:
    with node(waiting_bytes=1 << 20) as listening:
        answer = send(listening.port, write(large_instance(ct), tmp_path / "large"))
        assert set(answer["store"].values()) == {None}
        seen.wait_for("ended a connection with PACS: it sent more than is allowed")
        assert listening._receiver._budget._waiting == 0
        answer = send(listening.port, write(slices_of(ct), tmp_path / "sent"))
        assert set(answer["store"].values()) == {0}
        assert seen.next().instances == 6


def test_damaged_instances_are_refused(node: Callable[..., DicomNode], ct: Volume, tmp_path: Path) -> None:
    slices = slices_of(ct)
    del slices[0].SeriesInstanceUID
    slices[1].StudyInstanceUID = "../../etc"
    with node() as listening:
        answer = send(listening.port, write(slices, tmp_path / "sent", names=str))
        assert list(answer["store"].values()) == [0xC000, 0xC000, 0, 0, 0, 0]


def test_later_slices_complete_a_series_again(
    node: Callable[..., DicomNode], seen: Seen, ct: Volume, tmp_path: Path
) -> None:
    slices = slices_of(ct)
    with node() as listening:
        send(listening.port, write(slices[:4], tmp_path / "a"))
        assert seen.next().instances == 4
        send(listening.port, write(slices[3:], tmp_path / "b"))
        assert seen.next().instances == 6  # the fourth slice counts once


def test_what_a_killed_node_received_is_processed_by_the_next(
    node: Callable[..., DicomNode], seen: Seen, ct: Volume, tmp_path: Path
) -> None:
    seen.errors = [RuntimeError("defect"), RuntimeError("defect"), ImageError("no CT image")]
    with node(at_release=False, quiet_seconds=600) as listening:
        assert set(send(listening.port, write(slices_of(ct), tmp_path / "sent"))["store"].values()) == {0}
        with pytest.raises(OutputError, match=r"in use|another"):
            listening.__class__(listening.options, seen).__enter__()
    assert seen.series.empty()
    with node(quiet_seconds=0.1):
        assert [seen.next().instances for _ in range(3)] == [6, 6, 6]
        seen.wait_for(f"series {ROOT}2 of PACS failed: no CT image")
    with node(quiet_seconds=0.1):
        time.sleep(1)  # a series that failed for good is not processed again
    assert seen.series.empty()


def test_a_series_that_ends_the_process_is_given_up(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, series_bytes=1 << 20, most_series=10, reserve_bytes=0)
    key = inbox.save(b"x", study_uid="1.2", series_uid="1.3", instance_uid="1.4", caller="PACS")
    assert inbox.unfinished() == [key]
    assert [inbox.start(key)[1] for _ in range(3)] == [1, 2, 3]
    inbox.finish(inbox.start(key)[0], error="x")
    assert inbox.unfinished() == []
    inbox.save(b"y", study_uid="1.2", series_uid="1.3", instance_uid="1.5", caller="PACS")
    assert inbox.unfinished() == [key]  # more of it arrived
    series, attempt = inbox.start(key)
    assert (attempt, series.instances) == (1, 2)
    inbox.save(b"z", study_uid="1.2", series_uid="1.3", instance_uid="1.6", caller="PACS")
    inbox.finish(series)
    assert inbox.unfinished() == [key]  # more of it arrived while it was processed
    inbox.finish(inbox.start(key)[0])
    inbox.remove_finished(older_than=3600)
    assert list((tmp_path / "received").iterdir())
    inbox.remove_finished(older_than=-1)
    assert not list((tmp_path / "received").iterdir())


def test_connections_without_an_association_take_no_place(
    node: Callable[..., DicomNode], seen: Seen, tmp_path: Path
) -> None:
    with node(associations=1) as listening:
        for data in (b"", b"\x01", b"GET / HTTP/1.1\r\n\r\n"):  # such as the checks of a load balancer
            with socket.create_connection(("127.0.0.1", listening.port)) as connection:
                connection.sendall(data)
                time.sleep(0.5)  # the node accepts it
            wait_until(no_association)
        assert send(listening.port)["association"] == "released"
    with node(associations=1, peers=("10.0.0.0/8",)) as listening, ExitStack() as held:
        for number in range(1, 6):
            held.enter_context(socket.create_connection(("127.0.0.1", listening.port)))
            wait_until(lambda n=number: sum("it is in no network" in line for line in seen.lines) == n)
        wait_until(no_association)


def no_association() -> bool:
    """Return whether no connection has a thread; pynetdicom itself keeps it for a minute."""
    return not any("AcceptorThread" in thread.name for thread in threading.enumerate())


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited in vain")
