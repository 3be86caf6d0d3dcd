"""Start `gcis-serve` as a process, and talk to it with the standard library."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0


class Answer:
    """The answer to a request."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A process of `gcis-serve`.

    Args:
        folder: Folder of the jobs.
        *arguments: Arguments besides the folder and the port.
        script: Module or script to run instead of the command.
    """

    def __init__(self, folder: Path, *arguments: object, script: Path | None = None) -> None:
        program = [str(script)] if script is not None else ["-m", "gcis_runtime.cli.serve"]
        words = [*map(str, arguments), "--folder", str(folder), "--port", "0"]
        self.process = subprocess.Popen(
            [sys.executable, *program, *words],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        self.lines: list[str] = []
        self.url = ""
        self.ready = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.lines.append(line.rstrip())
            if "listening on " in line:
                self.url = line.split("listening on ")[1].strip()
                self._listening.set()
            if line.rstrip().endswith(": ready"):
                self.ready.set()
        self._listening.set()
        self.ready.set()

    def until_listening(self) -> Server:
        assert self._listening.wait(PATIENCE) and self.url, self.log
        return self

    def until_ready(self) -> Server:
        assert self.ready.wait(PATIENCE) and self.process.poll() is None, self.log
        return self

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        return host, int(port)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers or {})
            found = connection.getresponse()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, body: bytes, **headers: str) -> Answer:
        return self.request("POST", path, body, {k.replace("_", "-"): v for k, v in headers.items()})

    def until_ended(self, job: str) -> dict[str, Any]:
        """Return a job once it has ended."""
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            found = self.get(f"/v1/jobs/{job}").json
            if found["state"] in ("done", "failed", "cancelled"):
                return found
            time.sleep(0.1)
        raise AssertionError(f"job {job} does not end: {found}\n{self.log}")

    def resident_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._ended()

    def terminate(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        self._ended()
        return code

    def _ended(self) -> None:
        self._thread.join()
        if self.process.stderr is not None:
            self.process.stderr.close()


@contextlib.contextmanager
def serving(folder: Path, *arguments: object, script: Path | None = None) -> Iterator[Server]:
    """Start a server, and kill it at the end."""
    server = Server(folder, *arguments, script=script)
    try:
        yield server.until_ready()
    finally:
        server.kill()


def form(files: list[tuple[str, str, bytes]], fields: list[tuple[str, str]]) -> tuple[bytes, str]:
    """Return a multipart form and its content type."""
    boundary, parts = "a-boundary-of-the-tests", []
    for name, text in fields:
        parts.append(f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode())
    for name, file, data in files:
        head = f'Content-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'
        parts.append(head.encode() + data)
    body = b"".join(f"--{boundary}\r\n".encode() + part + b"\r\n" for part in parts)
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
