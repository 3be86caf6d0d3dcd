"""Test the code for Windows by a simulation of the rules of Windows."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import sys
from pathlib import Path

import pytest

from gcis_runtime import platforms
from gcis_runtime.errors import OutputError
from gcis_runtime.system.atomic_files import replacing, replacing_folder
from gcis_runtime.system.folder_lock import NAME, folder_lock
from gcis_runtime.system.rehearsal import check_folder_writable, check_writable


class ByteLocks:
    """`msvcrt.locking`: lock bytes from the position of the file on, until the file is closed."""

    def locking(self, file: int, _mode: int, count: int) -> None:
        first = os.lseek(file, 0, os.SEEK_CUR)
        assert first >= os.fstat(file).st_size, "the content must stay readable for others"
        lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, first, count, 0)
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None


def _open_inodes() -> set[int]:
    """Return the files that this process has open."""
    found = set()
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            state = os.fstat(int(entry.name))
        except OSError:
            continue
        if stat.S_ISREG(state.st_mode):
            found.add(state.st_ino)
    return found


@pytest.fixture
def windows(monkeypatch):
    """Let the system follow the rules of Windows for open files, locks and fsync."""
    fsync, replace, unlink = os.fsync, Path.replace, Path.unlink

    def checked_fsync(file: int) -> None:
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        fsync(file)

    def check_closed(path: Path) -> None:
        if path.is_file() and path.stat().st_ino in _open_inodes():
            raise PermissionError(13, "the file is open")

    def checked_replace(self: Path, to: Path) -> Path:
        check_closed(self)
        check_closed(to)
        return replace(self, to)

    def checked_unlink(self: Path, missing_ok: bool = False) -> None:
        check_closed(self)
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(platforms, "WINDOWS", True)
    monkeypatch.setattr(platforms, "LINUX", False)
    monkeypatch.setitem(sys.modules, "msvcrt", ByteLocks())
    monkeypatch.setattr(os, "fsync", checked_fsync)
    monkeypatch.setattr(Path, "replace", checked_replace)
    monkeypatch.setattr(Path, "unlink", checked_unlink)


@pytest.mark.usefixtures("windows")
def test_files_and_folders_are_replaced(tmp_path: Path) -> None:
    for text in ("old", "new"):
        check_writable(tmp_path / "file")
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text(text)
        check_folder_writable(tmp_path / "folder")
        with replacing_folder(tmp_path / "folder") as folder:
            (folder / text).write_text(text)
    assert (tmp_path / "file").read_text() == "new"
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["new"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.usefixtures("windows")
def test_a_second_run_reads_who_holds_the_lock(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        with pytest.raises(OutputError, match=f"process {os.getpid()} on"), folder_lock(tmp_path):
            pass
        assert (tmp_path / NAME).exists()
    assert not (tmp_path / NAME).exists()
    with folder_lock(tmp_path):
        pass


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("CON", "device"), ("nul.nii.gz", "device"), ("Com1.txt", "device"), ("LPT\u00b9", "device"),
        ("con .nii", "device"),
        ("a.", "end in"), ("a ", "end in"), ("a:b", "contain ':'"), ("a?", "contain '?'"),
        ("console", None), ("com10.nii", None), ("a.nii.gz", None), ("\u60a3\u8005", None),
    ],
)  # fmt: skip
def test_names_that_windows_refuses(monkeypatch, tmp_path: Path, name: str, problem: str | None) -> None:
    assert platforms.name_problem(name) is None
    monkeypatch.setattr(platforms, "WINDOWS", True)
    found = platforms.name_problem(name)
    assert (found is None) if problem is None else (found is not None and problem in found)
    if problem is not None:
        with pytest.raises(OutputError, match="accepts"):
            check_writable(tmp_path / name)


def test_names_that_differ_only_in_case_are_equal_on_windows_and_macos(monkeypatch) -> None:
    one, other = "Patient.nii.gz", "patient.nii.gz"
    monkeypatch.setattr(platforms, "MACOS", False)
    assert platforms.name_key(one) != platforms.name_key(other)
    for system in ("WINDOWS", "MACOS"):
        with monkeypatch.context() as patch:
            patch.setattr(platforms, system, True)
            assert platforms.name_key(one) == platforms.name_key(other)
            assert platforms.name_key("\u00e9") == platforms.name_key("e\u0301")


def test_other_modules_do_not_ask_for_the_platform() -> None:
    root = Path(platforms.__file__).parents[1]
    words = ("sys.platform", "import msvcrt", "import fcntl")
    asking = [
        file.relative_to(root).as_posix()
        for package in ("gcis_runtime", "gcis_train", "gcis_export")
        for file in (root / package).rglob("*.py")
        if any(word in file.read_text(encoding="utf-8") for word in words)
    ]
    assert asking == ["gcis_runtime/platforms.py"]
