"""Start Orthanc, a DICOM archive, for a test, and talk to it by DICOMweb and C-STORE."""

from __future__ import annotations

import email
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.runtime.dicom.tools import program
from tests.support.dicom_series import ROOT

PLUGINS = Path("/usr/share/orthanc/plugins")
LOOPBACK = """
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
int bind(int fd, const struct sockaddr *address, socklen_t size) {
  int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
  struct sockaddr_in own;
  if (address->sa_family == AF_INET) {
    own = *(const struct sockaddr_in *)address;
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address = (const struct sockaddr *)&own;
  }
  return real(fd, address, size);
}
"""
"""Orthanc listens on all addresses; this library, loaded before it, restricts it to this machine."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Archive:
    """A running Orthanc."""

    def __init__(self, http: int, dicom: int) -> None:
        self.url, self.dicom = f"http://127.0.0.1:{http}", dicom

    def get(self, path: str, **headers: str) -> bytes:
        asked = urllib.request.Request(self.url + path, headers=headers)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return bytes(answer.read())

    def post(self, path: str, data: bytes, content_type: str) -> bytes:
        asked = urllib.request.Request(self.url + path, data=data, headers={"Content-Type": content_type})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return bytes(answer.read())

    def put(self, path: str, data: bytes) -> None:
        urllib.request.urlopen(
            urllib.request.Request(self.url + path, data=data, method="PUT"), timeout=60
        ).close()

    def stow(self, files: list[Path]) -> None:
        """Store files by DICOMweb (STOW-RS)."""
        parts = b"".join(
            b"--x\r\nContent-Type: application/dicom\r\n\r\n" + file.read_bytes() + b"\r\n" for file in files
        )
        kind = 'multipart/related; type="application/dicom"; boundary=x'
        self.post("/dicom-web/studies", parts + b"--x--\r\n", kind)

    def find(self, **query: str) -> list[dict[str, Any]]:
        """Return the series of the study that match (QIDO-RS)."""
        text = "&".join(f"{k}={v}" for k, v in query.items())
        found = self.get(f"/dicom-web/studies/{ROOT}1/series?{text}", Accept="application/dicom+json")
        return list(json.loads(found))

    def retrieve(self, series_uid: str, *, instance_uid: str = "") -> list[bytes]:
        """Return the files of a series, or one of them (WADO-RS)."""
        path = f"/dicom-web/studies/{ROOT}1/series/{series_uid}"
        path += f"/instances/{instance_uid}" if instance_uid else ""
        accepted = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        asked = urllib.request.Request(self.url + path, headers={"Accept": accepted})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
            parts = email.message_from_bytes(head + answer.read()).get_payload()
        return [part.get_payload(decode=True) for part in parts]


@contextmanager
def running_archive(folder: Path, **more: Any) -> Iterator[Archive]:
    """Start an archive with its files in a folder, on free ports; `more` are further settings."""
    folder.mkdir(exist_ok=True)
    http, dicom = free_port(), free_port()
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "UnknownSopClassAccepted": True,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **more,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    environment = {**os.environ, "TCP_NODELAY": "1"}
    if compiler := shutil.which("gcc") or shutil.which("cc"):
        (folder / "loopback.c").write_text(LOOPBACK)
        library = folder / "loopback.so"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-o", library, folder / "loopback.c", "-ldl"], check=True
        )
        environment["LD_PRELOAD"] = str(library)
    found = Archive(http, dicom)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program("Orthanc"), str(folder / "orthanc.json")], env=environment, stdout=log, stderr=log
        )
    try:
        for _ in range(300):
            try:
                found.get("/system")
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        yield found
    finally:
        process.terminate()
        process.wait(timeout=30)


def store(archive: Archive, folder: Path) -> None:
    """Send the files of a folder by C-STORE."""
    environment = {**os.environ, "TCP_NODELAY": "1"}
    subprocess.run(
        [program("storescu"), "-aec", "ORTHANC", "+sd", "127.0.0.1", str(archive.dicom), str(folder)],
        check=True, env=environment, capture_output=True, timeout=120,
    )  # fmt: skip


def push(archive: Archive, port: int) -> None:
    """Let the archive send its CT series to the node."""
    settings = json.dumps({"AET": "GCIS", "Host": "127.0.0.1", "Port": port}).encode()
    archive.put("/modalities/gcis", settings)
    wanted = {"Level": "Series", "Query": {"Modality": "CT"}}
    series = json.loads(archive.post("/tools/find", json.dumps(wanted).encode(), "application/json"))
    order = {"Resources": series, "Synchronous": True}
    archive.post("/modalities/gcis/store", json.dumps(order).encode(), "application/json")
