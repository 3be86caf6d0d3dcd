"""Test that replacing a folder leaves either the old or the new one at any moment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gcis_runtime.images.files import write_labels
from gcis_runtime.images.volume import Volume
from gcis_runtime.system import atomic_files as atomic
from gcis_runtime.system.atomic_files import exchange_paths, remove_leftovers, replacing, replacing_folder
from tests.support.bundles_and_images import child_of


def _refuse(_one: Path, _two: Path) -> bool:
    """Replace `exchange_paths`, as on a system that cannot swap two paths."""
    return False


EXCHANGE = pytest.mark.parametrize("exchange", [exchange_paths, _refuse])


def _write(target: Path, text: str, exchange: Callable[[Path, Path], bool] = exchange_paths) -> None:
    with replacing_folder(target, exchange=exchange) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "a").write_text(text)


def _read(target: Path) -> str:
    return (target / "deep" / "a").read_text()


@EXCHANGE
def test_an_older_folder_is_replaced_whole(tmp_path: Path, exchange: Callable[[Path, Path], bool]) -> None:
    target = tmp_path / "above" / "folder"
    _write(target, "old")
    (target / "only the old one has this").touch()
    _write(target, "new", exchange)
    assert _read(target) == "new"
    assert [p.name for p in target.iterdir()] == ["deep"]
    assert [p.name for p in target.parent.iterdir()] == ["folder"]
    assert target.stat().st_mode & 0o777 == 0o755


@EXCHANGE
def test_a_failing_block_changes_nothing(tmp_path: Path, exchange: Callable[[Path, Path], bool]) -> None:
    target = tmp_path / "folder"
    _write(target, "old")
    with pytest.raises(OSError, match="No space"), replacing_folder(target, exchange=exchange) as folder:
        (folder / "half").touch()
        raise OSError(28, "No space left on device")
    assert _read(target) == "old" and [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_failing_rename_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, replace = tmp_path / "folder", Path.replace
    _write(target, "old")

    def fail(self: Path, to: Path) -> Path:
        if to == target and (self / "deep" / "a").read_text() == "new":
            raise OSError(5, "Input/output error")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="Input/output error"):
        _write(target, "new", _refuse)
    assert _read(target) == "old" and [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_file_in_the_way_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("mine")
    with pytest.raises(NotADirectoryError):
        _write(tmp_path / "folder", "new")
    assert (tmp_path / "folder").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_link_keeps_pointing(tmp_path: Path) -> None:
    _write(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    _write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and _read(tmp_path / "real") == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renameat2 is Linux's")
@pytest.mark.parametrize("moment", ["fsync", "rmtree"])
def test_a_process_killed_while_replacing_leaves_one_of_the_two(tmp_path: Path, moment: str) -> None:
    target = tmp_path / "folder"
    _write(target, "old")
    child = os.fork()
    if child == 0:  # fsync: before the new one has the name; rmtree: right after
        module = atomic.os if moment == "fsync" else atomic.shutil
        setattr(module, moment, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        _write(target, "new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert _read(target) == ("old" if moment == "fsync" else "new")


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
@pytest.mark.parametrize("suffix", ["", ".nrrd"])
def test_files_of_killed_processes_are_removed_and_those_of_living_ones_are_not(
    tmp_path: Path, suffix: str
) -> None:
    heard, told = os.pipe()

    def write(name: str, then: Callable[[], object]) -> None:
        with replacing(tmp_path / name, suffix=suffix) as temporary:
            temporary.write_text("half")
            os.write(told, b".")
            then()
            temporary.write_text("whole")

    dead = child_of(lambda: write("dead", lambda: os.kill(os.getpid(), signal.SIGKILL)))
    os.waitpid(dead, 0)
    waits, go_on = os.pipe()
    living = child_of(lambda: write("living", lambda: os.read(waits, 1)))
    os.read(heard, 1), os.read(heard, 1)
    assert sorted(p.name.split(".")[1] for p in tmp_path.iterdir()) == ["dead", "living"]
    remove_leftovers(tmp_path)
    assert [p.name.split(".")[1] for p in tmp_path.iterdir()] == ["living"]
    os.write(go_on, b".")
    assert os.waitpid(living, 0)[1] == 0
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("living", "whole")]
    remove_leftovers(tmp_path / "nowhere")


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_a_file_that_is_taken_for_a_leftover_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = atomic.try_lock, []

    def late(file: int) -> bool:
        if not seen:
            seen.append(1)
            remove_leftovers(tmp_path)  # as another process would just now
        return real(file)

    monkeypatch.setattr(atomic, "try_lock", late)
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    assert seen and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_where_files_cannot_be_locked_they_are_written_and_none_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_file: int) -> bool:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(atomic, "try_lock", refuse)
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("whole")
        remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["seg.nrrd", "seg.mha", "seg.nii.gz"])
def test_a_file_is_locked_until_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A library that replaced the file by a new one of that name would lose the lock."""
    volume = Volume.from_array(np.zeros((4, 3, 2), np.uint8), affine=np.eye(4))
    real, seen = Path.replace, []

    def replace(self: Path, to: Path) -> Path:
        remove_leftovers(tmp_path)
        seen.append(self.exists())
        return real(self, to)

    monkeypatch.setattr(Path, "replace", replace)
    write_labels(tmp_path / name, volume.array.astype(np.uint8), like=volume)
    assert seen == [True] and [p.name for p in tmp_path.iterdir()] == [name]
