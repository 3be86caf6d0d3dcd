"""Start the real service, and use it through HTTP: mixed clients, crashes, signals."""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.bundles_and_images import write_bundle, write_ct
from tests.support.service_process import ROOT, Server, form, serving

pytestmark = pytest.mark.service

SMALL, LARGE = (20, 18, 16), (170, 160, 150)
"""Shapes of a CT with one window, and of one with several hundred."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a bundle, CTs, and a file that is no image."""
    folder = tmp_path_factory.mktemp("service")
    write_bundle(folder / "b.gcis")
    for seed in range(3):
        write_ct(folder / f"{seed}.nii.gz", shape=SMALL, seed=seed)
    write_ct(folder / "large.nii.gz", shape=LARGE)
    return folder


def labels_of(server: Server, ct: bytes) -> bytes:
    """Return the labels of a CT."""
    answer = server.post("/v1/segment", ct)
    assert answer.status == 200, answer.body
    return answer.body


def patiently(send: Callable[[], object]) -> object:
    """Repeat a request that is refused because the service is busy."""
    for _ in range(400):
        answer = send()
        if answer.status != 429:
            return answer
        assert int(answer.headers["retry-after"]) >= 1
        time.sleep(0.2)
    raise AssertionError("refused for ever")


def abort(server: Server, ct: bytes) -> None:
    """Announce a CT, send its first half, and go away."""
    with socket.create_connection(server.address) as connection:
        head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(ct)}\r\n\r\n"
        connection.sendall(head.encode() + ct[: len(ct) // 2])


def leave(server: Server, ct: bytes) -> None:
    """Start a synchronous request, and go away before its answer."""
    with socket.create_connection(server.address) as connection:
        head = f"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(ct)}\r\n\r\n"
        connection.sendall(head.encode() + ct)
        time.sleep(0.3)


def trickle(server: Server, ct: bytes) -> int:
    """Send a CT slower than the service allows, and return the status of the answer."""
    with socket.create_connection(server.address) as connection:
        head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(ct)}\r\n\r\n"
        connection.sendall(head.encode())
        connection.settimeout(0.3)
        for byte in ct[:200]:
            connection.sendall(bytes([byte]))
            try:
                return int(connection.recv(100).split()[1])
            except TimeoutError:
                continue
    raise AssertionError("never refused")


def test_200_requests_of_mixed_clients_leave_nothing_behind(tmp_path: Path, data: Path) -> None:
    cts = [(data / f"{seed}.nii.gz").read_bytes() for seed in range(3)]
    large = (data / "large.nii.gz").read_bytes()
    arguments = ("--bundle", data / "b.gcis", "--upload-timeout", 2, "--queue", 6, "--uploads", 8)
    with serving(tmp_path / "jobs", *arguments) as server:
        expected = [labels_of(server, ct) for ct in cts]
        done: list[str] = []

        def good(number: int) -> None:
            body, kind = form([("image", "Muster^Erika.nii.gz", cts[number % 3])], [("statistics", "true")])
            headers = {"Content-Type": kind}
            job = patiently(lambda: server.request("POST", "/v1/jobs", body, headers)).json["id"]
            assert server.until_ended(job)["state"] == "done"
            assert server.get(f"/v1/jobs/{job}/label.nii.gz").body == expected[number % 3]
            done.append(job)

        def synchronous(number: int) -> None:
            answer = patiently(lambda: server.post("/v1/segment", cts[number % 3]))
            assert (answer.status, answer.body) == (200, expected[number % 3])

        def bad(number: int) -> None:
            ct = cts[0]
            table = [(b"junk" * 100, "", 415), (ct[: len(ct) // 2], "", 422), (ct, "?prompt=xyz", 422),
                     (ct, "?restore=best", 422), (b"", "", 415)]  # fmt: skip
            body, query, status = table[number % 5]
            answer = patiently(lambda: server.post(f"/v1/segment{query}", body))
            assert (answer.status, answer.json["status"]) == (status, status), answer.body
            assert answer.headers["content-type"] == "application/problem+json"
            assert str(tmp_path) not in answer.body.decode()

        def other(number: int) -> None:
            if number % 20 == 0:
                leave(server, large)
            elif number % 10 == 5:
                assert trickle(server, large) in (408, 429)
            elif number % 3 == 0:
                abort(server, large)
            else:
                assert server.get("/health").status == 200

        kinds = [good, synchronous, bad, other]
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(lambda n: kinds[n % 4](n // 4), range(100)))
            before = server.resident_bytes()
            list(clients.map(lambda n: kinds[n % 4](n // 4), range(100)))
        for job in server.get("/v1/jobs").json["jobs"]:
            assert server.until_ended(job["id"])["state"] in ("done", "cancelled")
        assert server.resident_bytes() < before + (64 << 20)
        assert len(done) == 50
        metrics = server.get("/metrics").body.decode()
        assert 'gcis_jobs_ended_total{state="cancelled"}' in metrics and "gcis_uploads 0.0" in metrics
        assert list((tmp_path / "jobs" / "incoming").iterdir()) == []
        assert server.get("/ready").status == 200
        assert "Traceback" not in server.log and "Muster" not in server.log
        assert server.terminate() == 0, server.log


def test_no_accepted_job_and_no_result_is_lost_when_the_process_is_killed(tmp_path: Path, data: Path) -> None:
    cts = [(data / f"{seed}.nii.gz").read_bytes() for seed in range(3)]
    random_ = random.Random(5)
    accepted: dict[str, int] = {}
    finished: set[str] = set()
    arguments = ("--bundle", data / "b.gcis", "--queue", 64, "--attempts", 100)

    def submit(server: Server) -> None:
        for number in range(30):
            try:
                answer = server.post("/v1/jobs", cts[number % 3])
            except OSError:
                return
            if answer.status == 202:
                accepted[answer.json["id"]] = number % 3

    for _ in range(5):
        server = Server(tmp_path / "jobs", *arguments).until_ready()
        known = {job["id"]: job["state"] for job in server.get("/v1/jobs").json["jobs"]}
        assert accepted.keys() <= known.keys()
        assert all(known[job] == "done" for job in finished)
        thread = threading.Thread(target=submit, args=(server,))
        thread.start()
        time.sleep(random_.uniform(0.05, 1.5))
        finished |= {job["id"] for job in server.get("/v1/jobs").json["jobs"] if job["state"] == "done"}
        server.kill()
        thread.join()
    with serving(tmp_path / "jobs", *arguments) as server:
        expected = [labels_of(server, ct) for ct in cts]
        assert len(accepted) > 10 and finished
        for job, number in accepted.items():
            assert server.until_ended(job)["state"] == "done"
            assert server.get(f"/v1/jobs/{job}/label.nii.gz").body == expected[number]


def test_a_signal_queues_a_running_job_for_the_next_start(tmp_path: Path, data: Path) -> None:
    arguments = ("--bundle", data / "b.gcis", "--grace", 0.2)
    server = Server(tmp_path / "jobs", *arguments).until_ready()
    job = server.post("/v1/jobs", (data / "large.nii.gz").read_bytes()).json["id"]
    until_computing(server, job)
    assert server.terminate() == 0, server.log
    assert f"job {job}: queued again" in server.log and "Traceback" not in server.log
    with serving(tmp_path / "jobs", *arguments) as server:
        until_computing(server, job)
        answer = server.request("DELETE", f"/v1/jobs/{job}")
        assert answer.status == 202
        assert server.until_ended(job)["state"] == "cancelled"
        assert server.request("DELETE", f"/v1/jobs/{job}").status == 204
        assert server.get(f"/v1/jobs/{job}").status == 404
        assert list((tmp_path / "jobs" / "jobs").iterdir()) == []


def test_a_second_signal_ends_the_process(tmp_path: Path, data: Path) -> None:
    server = Server(tmp_path / "jobs", "--bundle", data / "b.gcis", "--grace", 600).until_ready()
    job = server.post("/v1/jobs", (data / "large.nii.gz").read_bytes()).json["id"]
    until_computing(server, job)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert server.process.poll() is None
    assert server.get("/ready").status == 503
    assert server.post("/v1/jobs", b"").status == 503
    assert server.terminate() == 130, server.log


def until_computing(server: Server, job: str) -> None:
    """Wait until a window of a job was computed."""
    while server.get(f"/v1/jobs/{job}").json.get("progress", {}).get("windows", 0) < 1:
        time.sleep(0.05)


def test_a_job_that_kills_the_process_fails_and_takes_no_other_with_it(tmp_path: Path, data: Path) -> None:
    good = (data / "0.nii.gz").read_bytes()
    deadly = write_ct(tmp_path / "deadly.nii.gz", shape=(7, 7, 7)).read_bytes()
    script = ROOT / "tests" / "support" / "serve_script.py"
    arguments = ("--bundle", data / "b.gcis")
    server = Server(tmp_path / "jobs", *arguments, script=script).until_listening()
    killer, *others = [server.post("/v1/jobs", body).json["id"] for body in (deadly, good, good)]
    starts = 1
    while server.process.wait(120) == -signal.SIGKILL:
        server.kill()
        starts += 1
        server = Server(tmp_path / "jobs", *arguments, script=script)
        if starts == 4:
            break
    server.until_ready()
    try:
        assert server.until_ended(killer)["error"]["received"] == "3 attempts"
        assert [server.until_ended(job)["state"] for job in others] == ["done", "done"]
    finally:
        server.kill()
