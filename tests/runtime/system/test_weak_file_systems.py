"""Test writing to file systems that lack locks, fsync, modes or rename: outputs are whole, with one note."""

from __future__ import annotations

import errno
import fcntl
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from gcis_runtime.errors import OutputError
from gcis_runtime.platforms import exchange_paths
from gcis_runtime.system.atomic_files import replacing, replacing_folder
from gcis_runtime.system.folder_lock import folder_lock
from gcis_runtime.system.rehearsal import check_folder_writable, check_writable
from gcis_runtime.system.weak_file_systems import FileSystemWarning


def _raising(code: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


LACKING = [
    ("flock", fcntl, "flock", errno.ENOSYS),
    ("flock", fcntl, "flock", errno.ENOLCK),
    ("fsync", os, "fsync", errno.EINVAL),
    ("chmod", Path, "chmod", errno.EPERM),
    ("rename", Path, "replace", errno.ENOSYS),
    ("rename", Path, "replace", errno.EPERM),
]


@pytest.fixture(params=LACKING, ids=lambda case: f"{case[0]}-{errno.errorcode[case[3]]}")
def lacking(request, monkeypatch) -> str:
    name, owner, attribute, code = request.param
    monkeypatch.setattr(owner, attribute, _raising(code))
    return str(name)


@pytest.mark.parametrize("exchange", [exchange_paths, lambda *_: False])
def test_files_and_folders_are_written_and_replaced(tmp_path: Path, lacking: str, exchange) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for text in ("old", "new"):
            check_writable(tmp_path / "file")
            with replacing(tmp_path / "file") as temporary:
                temporary.write_text(text)
            check_folder_writable(tmp_path / "folder")
            with replacing_folder(tmp_path / "folder", exchange=exchange) as folder:
                (folder / "deep").mkdir()
                (folder / "deep" / text).write_text(text)
        with folder_lock(tmp_path / "folder"):
            pass
    assert (tmp_path / "file").read_text() == "new"
    assert [p.name for p in (tmp_path / "folder").rglob("*")] == ["deep", "new"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert {w.category for w in caught} <= {FileSystemWarning}
    assert caught or lacking == "rename"  # a folder may be exchanged without a rename


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_disk_that_fails_is_an_error(tmp_path: Path, monkeypatch, owner: object, name: str) -> None:
    monkeypatch.setattr(owner, name, _raising(errno.EIO))
    for check in (check_writable, check_folder_writable):
        with pytest.raises(OutputError, match="Input/output error"):
            check(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "deep" / "file")
    check_folder_writable(tmp_path / "new" / "folder", size=1 << 20)
    assert list(tmp_path.iterdir()) == []


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    for name in ("x" * 255, "\u60a3" * 85):
        check_writable(tmp_path / name)
        with replacing(tmp_path / name) as temporary:
            temporary.write_text("text")
        assert (tmp_path / name).read_text() == "text"
    with pytest.raises(OutputError, match="too long"):
        check_writable(tmp_path / ("x" * 256))


def test_a_disk_without_room_is_found_by_the_rehearsal(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("gcis_runtime.system.rehearsal.bytes", _raising(errno.ENOSPC), raising=False)
    with pytest.raises(OutputError, match="No space left"):
        check_folder_writable(tmp_path / "checkpoint", size=1 << 30)
    assert list(tmp_path.iterdir()) == []
