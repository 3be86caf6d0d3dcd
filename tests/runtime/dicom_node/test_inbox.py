"""Test that the inbox notices what changes while a series is processed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcis_runtime.dicom_node import inbox as module
from gcis_runtime.dicom_node.inbox import FullError, Inbox


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return opened(tmp_path)


def opened(folder: Path, *, most_series: int = 10) -> Inbox:
    return Inbox(folder, series_bytes=1 << 20, most_series=most_series, reserve_bytes=0)


def save(inbox: Inbox, data: bytes, instance: str = "1.4", *, series: str = "1.3") -> str:
    return inbox.save(data, study_uid="1.2", series_uid=series, instance_uid=instance, caller="PACS")


def test_the_digest_is_that_of_the_content(inbox: Inbox) -> None:
    key = save(inbox, b"Doe")
    first, _ = inbox.start(key)
    save(inbox, b"Doe")
    again, _ = inbox.start(key)
    save(inbox, b"Roe")
    corrected, _ = inbox.start(key)
    assert first.digest == again.digest != corrected.digest and corrected.instances == 1


def test_an_instance_that_is_replaced_meanwhile_is_not_finished(inbox: Inbox, tmp_path: Path) -> None:
    key = save(inbox, b"Doe")
    series, _ = inbox.start(key)
    save(inbox, b"Roe")
    inbox.finish(series)
    assert opened(tmp_path).unfinished() == [key]


def test_a_slow_sender_does_not_use_up_the_attempts(inbox: Inbox) -> None:
    key = save(inbox, b"0")
    for number in range(5):
        series, attempt = inbox.start(key)
        assert attempt == 1
        save(inbox, b"x", f"1.4.{number}")
        inbox.finish(series)


def test_the_folder_is_not_read_for_every_instance(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    made, honest = [], module._Sizes.__init__

    def counted(sizes: module._Sizes, folder: Path) -> None:
        made.append(folder)
        honest(sizes, folder)

    monkeypatch.setattr(module._Sizes, "__init__", counted)
    for number in range(20):
        save(inbox, b"x", f"1.4.{number}")
    assert len(made) == 1


def test_the_number_of_series_is_limited_until_finished_ones_are_removed(tmp_path: Path) -> None:
    inbox = opened(tmp_path, most_series=2)
    key = save(inbox, b"x")
    save(inbox, b"x", series="1.4")
    with pytest.raises(FullError, match="2 series are stored"):
        save(inbox, b"x", series="1.5")
    save(inbox, b"y", "1.4.1")  # further instances of known series are accepted
    later = opened(tmp_path, most_series=2)
    with pytest.raises(FullError):
        save(later, b"x", series="1.5")
    series, _ = later.start(key)
    later.finish(series)
    later.remove_finished(older_than=-1.0)
    save(later, b"x", series="1.5")
    with pytest.raises(FullError):
        save(later, b"x")
    assert len(list((tmp_path / "received").iterdir())) == 2
