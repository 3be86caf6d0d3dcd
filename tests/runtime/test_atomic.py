"""A folder that is replaced: the old one or the new one, at any moment, never something between."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from gcis_runtime import atomic
from gcis_runtime.atomic import replacing_folder


def _write(target: Path, text: str) -> None:
    with replacing_folder(target) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "a").write_text(text)


def _read(target: Path) -> str:
    return (target / "deep" / "a").read_text()


@pytest.mark.parametrize("exchange", [True, False])
def test_an_older_folder_is_replaced_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    target = tmp_path / "above" / "folder"
    _write(target, "old")
    (target / "only the old one has this").touch()
    _write(target, "new")
    assert _read(target) == "new"
    assert [p.name for p in target.iterdir()] == ["deep"]
    assert [p.name for p in target.parent.iterdir()] == ["folder"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("exchange", [True, False])
def test_a_failing_block_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    target = tmp_path / "folder"
    _write(target, "old")
    with pytest.raises(OSError, match="No space"), replacing_folder(target) as folder:
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

    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="Input/output error"):
        _write(target, "new")
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
