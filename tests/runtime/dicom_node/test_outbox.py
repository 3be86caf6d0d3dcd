"""Test that results are sent until a destination takes them, also by a later process."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from gcis_runtime.dicom_node.destinations import Destination, parse_destination
from gcis_runtime.dicom_node.outbox import Outbox
from gcis_runtime.errors import OutputError

PACS, WEB = parse_destination("PACS@pacs:104"), parse_destination("https://pacs/dicom-web")


class Sent:
    """Records what was sent, and fails a number of times before."""

    def __init__(self, failures: int = 0) -> None:
        self.failures, self.calls = failures, []

    def __call__(self, files: Sequence[Path], destination: Destination) -> None:
        if self.failures:
            self.failures -= 1
            raise OutputError(f"{destination} did not take the results")
        self.calls.append((str(destination), [file.read_bytes() for file in files]))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "seg.dcm", tmp_path / "sr.dcm"]
    for file in made:
        file.write_bytes(file.name.encode())
    return made


def test_an_entry_is_sent_once_to_each_destination(tmp_path: Path, files: list[Path]) -> None:
    sent, lines = Sent(), []
    outbox = Outbox(tmp_path / "out", send=sent, log=lines.append)
    for destination in (PACS, WEB):
        outbox.add(files, destination, key="a")
    for file in files:
        file.unlink()  # the outbox has its own copies
    assert outbox.send_due(0.0) is None and outbox.send_due(1e9) is None
    assert sorted(sent.calls) == [(str(d), [b"seg.dcm", b"sr.dcm"]) for d in (PACS, WEB)]
    assert not list((tmp_path / "out").iterdir()) and lines[0].startswith("sent 2 files to ")


def test_failures_are_tried_again_later_and_by_a_later_process(tmp_path: Path, files: list[Path]) -> None:
    sent, lines = Sent(failures=2), []
    outbox = Outbox(tmp_path / "out", send=sent, delays=(5, 30), log=lines.append)
    outbox.add(files, PACS, key="a")
    assert outbox.send_due(100.0) == 105 and outbox.send_due(104.0) == 105 and not sent.calls
    assert outbox.send_due(105.0) == 135 and "next attempt in 30 s" in lines[-1]
    later = Outbox(tmp_path / "out", send=sent, delays=(5, 30))
    assert later.send_due(134.0) == 135 and not sent.calls
    assert later.send_due(135.0) is None and len(sent.calls) == 1


def test_a_clock_that_is_set_back_delays_no_attempt(tmp_path: Path, files: list[Path]) -> None:
    sent = Sent(failures=1)
    outbox = Outbox(tmp_path / "out", send=sent, delays=(5, 30))
    outbox.add(files, PACS, key="a")
    assert outbox.send_due(1e9) == 1e9 + 5
    assert outbox.send_due(1e9 - 20) == 1e9 + 5 and not sent.calls
    assert outbox.send_due(1e9 - 3600) is None and len(sent.calls) == 1


def test_a_destination_that_never_answers_is_given_up_with_the_files_kept(
    tmp_path: Path, files: list[Path]
) -> None:
    sent, lines = Sent(failures=99), []
    outbox = Outbox(tmp_path / "out", send=sent, delays=(5,), log=lines.append)
    outbox.add(files, PACS, key="a")
    assert outbox.send_due(0.0) == 5 and outbox.send_due(5.0) is None and outbox.send_due(1e9) is None
    assert sent.failures == 97 and lines[-1].endswith("(given up)")
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 2
    sent.failures = 0
    outbox.add(files[:1], PACS, key="a")  # new results of the series replace them
    assert outbox.send_due(0.0) is None and sent.calls == [("PACS@pacs:104", [b"seg.dcm"])]


def test_the_thread_sends_what_is_added(tmp_path: Path, files: list[Path]) -> None:
    sent = Sent()
    outbox = Outbox(tmp_path / "out", send=sent)
    outbox.start()
    outbox.add(files, PACS, key="a")
    for _ in range(1000):
        if sent.calls:
            break
        outbox._thread.join(0.01)
    outbox.stop()
    assert len(sent.calls) == 1 and not outbox._thread.is_alive()


class OddError(Exception):
    """An exception of a library."""


def test_an_unexpected_error_is_a_failure_like_others(tmp_path: Path, files: list[Path]) -> None:
    sent, lines, failures = Sent(), [], [OddError("DOE^JOHN")]

    def send(files: Sequence[Path], destination: Destination) -> None:
        if failures:
            raise failures.pop()
        sent(files, destination)

    outbox = Outbox(tmp_path / "out", send=send, delays=(0.01,), log=lines.append)
    outbox.add(files, PACS, key="a")
    outbox.start()
    for _ in range(1000):
        if sent.calls:
            break
        outbox._thread.join(0.01)
    outbox.stop()
    assert len(sent.calls) == 1 and "OddError" in lines[0] and "DOE" not in lines[0]


def test_what_killed_processes_left_is_removed_and_not_sent(tmp_path: Path, files: list[Path]) -> None:
    sent = Sent()
    outbox = Outbox(tmp_path / "out", send=sent)
    outbox.add(files, PACS, key="a")
    (entry,) = (tmp_path / "out").iterdir()
    half = (
        tmp_path / "out" / f".{entry.name}.01234567.part"
    )  # named as by `replacing_folder` and at the removal
    shutil.copytree(entry, half)
    assert outbox.send_due(0.0) is None and len(sent.calls) == 1 and half.exists()
    Outbox(tmp_path / "out", send=sent)
    assert not list((tmp_path / "out").iterdir())


def test_a_destination_that_was_removed_receives_nothing(tmp_path: Path, files: list[Path]) -> None:
    sent, lines = Sent(failures=1), []
    outbox = Outbox(tmp_path / "out", send=sent, destinations=[PACS])
    outbox.add(files, PACS, key="a")
    outbox.send_due(0.0)
    later = Outbox(tmp_path / "out", send=sent, destinations=[WEB], log=lines.append)
    assert later.send_due(1e9) is None and later.send_due(1e9) is None and not sent.calls
    assert len(lines) == 1 and "no destination any more" in lines[0]
    assert Outbox(tmp_path / "out", send=sent, destinations=[PACS]).send_due(1e9) is None and sent.calls


def test_what_was_given_up_is_sent_again_by_a_later_process(tmp_path: Path, files: list[Path]) -> None:
    sent = Sent(failures=2)
    outbox = Outbox(tmp_path / "out", send=sent, delays=(5,))
    outbox.add(files, PACS, key="a")
    outbox.send_due(0.0)
    outbox.send_due(5.0)
    assert outbox.send_due(6.0) is None and not sent.calls
    later = Outbox(tmp_path / "out", send=sent, delays=(5,))
    assert later.send_due(6.0) is None and len(sent.calls) == 1
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("destinations", [[PACS], [WEB]], ids=["given up", "removed destination"])
def test_results_that_were_not_sent_for_long_are_removed(
    tmp_path: Path, files: list[Path], destinations: list[Destination]
) -> None:
    lines: list[str] = []
    outbox = Outbox(
        tmp_path / "out", send=Sent(failures=99), delays=(), destinations=destinations, keep_seconds=86400.0,
        log=lines.append,
    )  # fmt: skip
    outbox.add(files, PACS, key="a")
    now = time.time()
    assert outbox.send_due(now) is None and outbox.send_due(now + 86000) is None
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 2
    assert outbox.send_due(now + 86500) is None
    assert not list((tmp_path / "out").iterdir())
    assert lines[-1].startswith("removed results that were not sent to PACS@pacs:104 for 1 day")
