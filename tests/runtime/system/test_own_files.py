"""Test that files of gCIS are opened through no link, and that nothing of somebody else is overwritten."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gcis_runtime.errors import OutputError
from gcis_runtime.system.atomic_files import remove_leftovers, replacing
from gcis_runtime.system.folder_lock import NAME, folder_lock
from gcis_runtime.system.own_files import (
    LinkError,
    NotPlainError,
    TooLargeError,
    create_new,
    open_append,
    open_inside,
    open_plain,
    read_small,
)
from gcis_train.training.loop.run_folder import METRICS_FILE, RunFolder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """Return a file of somebody else, outside the folder of the tests."""
    path = tmp_path / "precious"
    path.write_text("precious")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path


@pytest.mark.parametrize("reader", [open_plain, open_append, lambda p: read_small(p, most_bytes=100)])
def test_a_link_is_not_followed(precious: Path, folder: Path, reader: Callable[[Path], object]) -> None:
    (folder / "link").symlink_to(precious)
    with pytest.raises(LinkError):
        reader(folder / "link")
    (folder / "dangling").symlink_to(folder / "target")
    with pytest.raises(LinkError):
        reader(folder / "dangling")
    assert not (folder / "target").exists() and precious.read_text() == "precious"


def test_a_new_file_is_never_an_existing_one(precious: Path, folder: Path) -> None:
    (folder / "dangling").symlink_to(folder / "target")
    for path in (precious, folder / "dangling"):
        with pytest.raises(FileExistsError):
            create_new(path)
    assert not (folder / "target").exists() and precious.read_text() == "precious"


def test_only_plain_files_of_limited_size_are_read(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for path in (folder / "pipe", folder):
        with pytest.raises(NotPlainError):
            read_small(path, most_bytes=10)
    (folder / "file").write_bytes(b"12345")
    assert read_small(folder / "file", most_bytes=5) == b"12345"
    with pytest.raises(TooLargeError):
        read_small(folder / "file", most_bytes=4)


def test_no_part_of_a_path_below_a_folder_may_be_a_link(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_bytes(b"x")
    (folder / "link").symlink_to("a")
    with open_inside(folder, "a/b/file") as file:
        assert file.read() == b"x"
    with pytest.raises(LinkError):
        open_inside(folder, "link/b/file")
    with pytest.raises(NotPlainError):
        open_inside(folder, "a/b")


@pytest.mark.parametrize("kind", ["link", "hard link"])
def test_a_lock_does_not_empty_a_file_of_somebody_else(precious: Path, folder: Path, kind: str) -> None:
    (folder / NAME).symlink_to(precious) if kind == "link" else (folder / NAME).hardlink_to(precious)
    with pytest.raises(OutputError) as caught, folder_lock(folder):
        pass
    assert caught.value.received and caught.value.fix
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("content", ["", "process 12 on host\n"])
def test_the_lock_of_a_killed_process_is_replaced_not_overwritten(folder: Path, content: str) -> None:
    (folder / NAME).write_text(content)
    (folder / "copy").hardlink_to(folder / NAME)
    with folder_lock(folder):
        assert f"process {os.getpid()} on " in (folder / NAME).read_text()
    assert (folder / "copy").read_text() == content
    assert not (folder / NAME).exists()


def test_a_temporary_file_that_was_exchanged_is_not_used(precious: Path, folder: Path) -> None:
    with pytest.raises(OutputError, match="replaced by another"), replacing(folder / "out") as temporary:
        temporary.unlink()
        temporary.symlink_to(precious)
    assert list(folder.iterdir()) == [] and precious.read_text() == "precious"


def test_leftovers_are_not_removed_through_links(precious: Path, folder: Path) -> None:
    (folder / ".a.nii.gz.01234567.part").symlink_to(precious)
    remove_leftovers(folder)
    assert precious.exists() and (folder / ".a.nii.gz.01234567.part").is_symlink()


def test_metrics_are_not_appended_through_a_link(precious: Path, folder: Path) -> None:
    (folder / METRICS_FILE).symlink_to(precious)
    with pytest.raises(Exception, match="link"):
        RunFolder(folder).add_metrics({"epoch": 1})
    assert precious.read_text() == "precious"
