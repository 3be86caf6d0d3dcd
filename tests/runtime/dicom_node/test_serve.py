"""Test that a study which Orthanc sends to the node comes back segmented, by C-STORE and by STOW-RS."""

from __future__ import annotations

import io
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from gcis_runtime import Segmenter
from gcis_runtime.dicom.options import DicomOptions
from gcis_runtime.dicom_node.destinations import parse_destination
from gcis_runtime.dicom_node.node import DicomNode
from gcis_runtime.dicom_node.options import NodeOptions
from gcis_runtime.dicom_node.send import send_files
from gcis_runtime.dicom_node.serve import serve_node
from gcis_runtime.errors import OutputError
from gcis_runtime.images.volume import Volume
from gcis_runtime.runs.options import RunOptions
from tests.runtime.dicom.orthanc import free_port, push, running_archive, store
from tests.support.bundles_and_images import smooth_ct
from tests.support.dicom_series import ROOT, slices_of, write

AFFINE = np.array([[-2.0, 0, 0, 40], [0, -2, 0, 40], [0, 0, 3, -10], [0, 0, 0, 1.0]])


@contextmanager
def serving(segmenter: Segmenter, folder: Path, lines: list[str], **more: Any) -> Iterator[DicomNode]:
    """Run `serve_node` in a thread, as a program would in its own process."""
    stop, started = threading.Event(), queue.Queue()
    node = NodeOptions(folder=folder, callers=("ORTHANC",), port=0, at_release=True, reserve_bytes=0)
    arguments = {"stop": stop, "on_start": started.put, "log": lines.append, **more}
    thread = threading.Thread(target=serve_node, args=(segmenter, node), kwargs=arguments)
    thread.start()
    try:
        yield started.get(timeout=60)
    finally:
        stop.set()
        thread.join(timeout=120)


@pytest.mark.dicom
@pytest.mark.service
def test_an_archive_sends_a_study_and_receives_its_segmentation(
    make_bundle: Callable[..., Path], own_home: None, tmp_path: Path
) -> None:
    lines: list[str] = []
    options = RunOptions(dicom=DicomOptions(sr=True))
    with (
        running_archive(tmp_path / "archive") as archive,
        Segmenter.open(make_bundle()) as segmenter,
        serving(
            segmenter, tmp_path / "node", lines, options=options, formats=("dicom-seg", "rtstruct"),
            send_to=[f"ORTHANC@127.0.0.1:{archive.dicom}", f"{archive.url}/dicom-web"],
        ) as node,
    ):  # fmt: skip
        ct = Volume.from_array(smooth_ct((36, 34, 20)), affine=AFFINE)
        scout = slices_of(ct, series=9, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])[:1]
        store(archive, write([*slices_of(ct), *scout], tmp_path / "sent"))
        push(archive, node.port)
        wait_for(lines, "sent 3 files to ", count=2)
        found = {entry["00080060"]["Value"][0] for entry in archive.find()}
        assert found == {"CT", "SEG", "RTSTRUCT", "SR"} and len(archive.find()) == 5
        (entry,) = archive.find(Modality="SEG")
        (data,) = archive.retrieve(entry["0020000E"]["Value"][0])
        seg = pydicom.dcmread(io.BytesIO(data))
        assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == f"{ROOT}2"
        wait_for(lines, f"series {ROOT}9 of ORTHANC failed: ", count=1)  # the localiser
        push(archive, node.port)  # a repeated study replaces its results
        wait_for(lines, "sent 3 files to ", count=4)
        assert len(archive.find()) == 5
    assert not any("Muster" in line or "4711" in line for line in lines), lines


def wait_for(lines: list[str], text: str, *, count: int) -> None:
    for _ in range(1200):
        if sum(text in line for line in lines) >= count:
            return
        time.sleep(0.1)
    raise AssertionError(lines)


ANSWERS = {
    "nothing failed": (200, {"00081198": {"vr": "SQ"}}, ""),
    "one failed": (202, {"00081198": {"vr": "SQ", "Value": [{}]}}, "did not store the file"),
    "no object": (200, [], "did not store the file"),
    "conflict": (409, {}, "HTTP status 409"),
    "not authorised": (401, {}, "HTTP status 401"),
}


@contextmanager
def web_server(
    status: int, body: bytes, headers: dict[str, str] | None = None
) -> Iterator[tuple[int, list[tuple[str, str, bytes]]]]:
    """Yield the port of a server with one answer, and the path, authorization and body of each request."""
    requests: list[tuple[str, str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append((self.path, self.headers["Authorization"], data))
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value.format(port=self.server.server_address[1]))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST  # noqa: N815 (a name of http.server)

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1], requests
        finally:
            server.shutdown()


def send_to_web(folder: Path, port: int) -> None:
    """Send a file to a server of this machine."""
    (folder / "a.dcm").write_bytes(b"content")
    send_files([folder / "a.dcm"], parse_destination(f"http://127.0.0.1:{port}/web"), token="secret")


@pytest.mark.service
@pytest.mark.parametrize("name", ANSWERS)
def test_the_answers_of_a_web_server(tmp_path: Path, name: str) -> None:
    status, body, message = ANSWERS[name]
    raises = pytest.raises(OutputError, match=message) if message else nullcontext()
    with web_server(status, json.dumps(body).encode()) as (port, requests), raises:
        send_to_web(tmp_path, port)
    ((path, authorization, data),) = requests
    assert path == "/web/studies" and authorization == "Bearer secret" and b"\r\n\r\ncontent\r\n--" in data


@pytest.mark.service
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(tmp_path: Path, status: int) -> None:
    location = {"Location": "http://localhost:{port}/elsewhere"}
    raises = pytest.raises(OutputError, match=f"HTTP status {status}")
    with web_server(status, b"", location) as (port, requests), raises:
        send_to_web(tmp_path, port)
    assert [path for path, _, _ in requests] == ["/web/studies"]


@pytest.mark.service
def test_an_answer_that_is_nested_too_deep_is_an_error(tmp_path: Path) -> None:
    with web_server(200, 100_000 * b"[") as (port, _), pytest.raises(OutputError, match="did not take"):
        send_to_web(tmp_path, port)


@pytest.mark.service
def test_a_server_that_does_not_speak_http_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def talk() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"nonsense\r\n\r\n")

        threading.Thread(target=talk, daemon=True).start()
        with pytest.raises(OutputError, match="did not take the results"):
            send_to_web(tmp_path, listening.getsockname()[1])


@pytest.mark.service
# pynetdicom leaves a socket that could not be connected to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_cannot_be_sent_is_an_error(tmp_path: Path) -> None:
    ct = Volume.from_array(smooth_ct((36, 34, 3)), affine=AFFINE)
    files = sorted(write(slices_of(ct), tmp_path / "s").iterdir())
    for text in (f"PACS@127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}/dicom-web"):
        with pytest.raises(OutputError, match="did not take the results"):
            send_files(files, parse_destination(text))


@pytest.mark.service
@pytest.mark.parametrize(
    ("formats", "send_to"), [(("nii.gz",), ["A@b:1"]), ((), ["A@b:1"]), (("dicom-seg",), [])]
)
def test_a_node_needs_dicom_formats_and_a_destination(tmp_path: Path, formats: Any, send_to: Any) -> None:
    with pytest.raises(OutputError, match="sends results in DICOM formats to destinations"):
        serve_node(None, NodeOptions(folder=tmp_path, callers=("A",)), send_to=send_to, formats=formats)
