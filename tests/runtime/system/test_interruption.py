"""Test that a second signal ends a process that does not return to Python, and that nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gcis_runtime.system.atomic_files import remove_leftovers, replacing_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

STUCK = """
import ctypes, sys
from pathlib import Path
from gcis_runtime.system.atomic_files import replacing, replacing_folder
from gcis_runtime.system.console import command

@command("stuck")
def main():
    folder = Path(sys.argv[1])
    with replacing(folder / "file") as file, replacing_folder(folder / "bundle") as bundle:
        file.write_text("half")
        (bundle / "model").write_text("half")
        print("ready", flush=True)
        libc, mutex = ctypes.CDLL(None), (ctypes.c_char * 64)()
        while True:
            BLOCK

main([])
"""


DEADLOCK = "[libc.pthread_mutex_lock(mutex), libc.pthread_mutex_lock(mutex)]"
"""A call that does not return when a signal arrives, as engines wait for their threads."""


@contextlib.contextmanager
def started(folder: Path, block: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process that writes two outputs and then calls `block`."""
    with subprocess.Popen(
        [sys.executable, "-c", STUCK.replace("BLOCK", block), str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_interrupts_python(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path, "libc.usleep(1000)") as process:
        process.send_signal(number)
        assert process.wait(10) == 130
        assert process.stderr is not None and process.stderr.read().strip() == "stuck: interrupted"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_call_that_does_not_return(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path, DEADLOCK) as process:
        time.sleep(0.5)  # until it is in the call
        process.send_signal(number)
        time.sleep(0.1)
        process.send_signal(number)  # `timeout` sends a signal twice: it counts as one
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        process.send_signal(number)
        assert process.wait(10) == 130
        assert process.stderr is not None and "ended by a second signal" in process.stderr.read()
    assert list(tmp_path.iterdir()) == []


def killed_export(folder: Path) -> Path:
    """Leave the folder of a process that was killed while it wrote a bundle, and return it."""
    child = os.fork()
    if child == 0:
        with replacing_folder(folder / "b.gcis") as temporary:
            (temporary / "model.onnx").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = folder.iterdir()
    return left


def test_the_folder_of_a_killed_export_is_removed_by_the_next_one(tmp_path: Path) -> None:
    left = killed_export(tmp_path)
    assert left.name.startswith(".b.gcis.")
    with replacing_folder(tmp_path / "other.gcis") as temporary:
        (temporary / "model.onnx").write_bytes(b"whole")
        remove_leftovers(tmp_path)
        assert temporary.is_dir(), "it is being written"
    assert [path.name for path in tmp_path.iterdir()] == ["other.gcis"]


def test_folders_with_other_names_stay(tmp_path: Path) -> None:
    for name in (".b.gcis.old.abc", ".config", ".a.0123456.part", "b.01234567.part"):
        (tmp_path / name).mkdir()
    (tmp_path / ".link.01234567.part").symlink_to(tmp_path / ".config")
    before = sorted(tmp_path.iterdir())
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
