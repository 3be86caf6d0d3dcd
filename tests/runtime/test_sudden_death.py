"""Test killed processes and full disks: no partial file exists under a final name."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from gcis_runtime.cli.run import main
from gcis_runtime.errors import OutputError
from gcis_runtime.pipeline.options import Callbacks, SegmentOptions
from gcis_runtime.runs.case import read_case, segment_case, write_case
from gcis_runtime.runs.inputs import find_images
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outputs import plan_jobs
from tests.support.bundles_and_images import child_of, smooth_ct
from tests.support.fake_session import threshold_segmenter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and signals of POSIX")


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Limit files of this process to `size` bytes, which simulates a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def outputs(folder: Path) -> dict[str, bytes]:
    """Return the files with final names; temporary files begin with a dot."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def assert_whole(found: dict[str, bytes], reference: dict[str, bytes]) -> None:
    """Check that every existing output is complete; reports differ in their times."""
    for name, data in found.items():
        if name.endswith(".json"):
            assert json.loads(data).keys() == json.loads(reference[name]).keys()
        else:
            assert data == reference[name], name


def segment_into(folder: Path) -> None:
    """Read, segment and write every kind of output of one image, next to it."""
    job = plan_jobs(find_images([folder / "ct.nii.gz"]), None)[0]
    options = RunOptions(
        segment=SegmentOptions(masks=True, probabilities=True), preview=True, statistics=True
    )
    with threshold_segmenter() as segmenter:
        case = read_case(segmenter, job, options)
        write_case(case, segment_case(segmenter, case, options, Callbacks()), options)


@pytest.fixture
def place(tmp_path) -> Callable[[str], Path]:
    """Return a function `place(name)` that creates a folder with one image."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        nib.save(nib.Nifti1Image(smooth_ct((30, 28, 20)), np.diag([3.0, 3, 3, 1])), folder / "ct.nii.gz")
        return folder

    return make


def killed(folder: Path, work: Callable[[], object]) -> bool:
    """Run `work` in a child process; return whether a signal ended it."""
    _, status = os.waitpid(child_of(work), 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def kill_at(number: int, folder: Path) -> None:
    """Kill this process at the `number`-th time it opens, renames or removes a file in `folder`."""
    left = [number]

    def hook(event: str, arguments: tuple) -> None:
        changing = event in ("os.rename", "os.remove", "os.mkdir") or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if changing and str(arguments[0]).startswith(str(folder)):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    sys.addaudithook(hook)


def test_killed_before_any_change_of_a_file_it_leaves_whole_files(place):
    reference_folder = place("reference")
    segment_into(reference_folder)
    reference = outputs(reference_folder)
    assert {Path(name).suffix for name in reference} == {".gz", ".json", ".png", ".csv"}
    number, seen = 0, set()
    while True:
        folder = place(f"moment {number}")

        def work(folder=folder, number=number):
            kill_at(number, folder)
            segment_into(folder)

        ended_by_signal = killed(folder, work)
        found = outputs(folder)
        assert_whole(found, reference)
        if not ended_by_signal:
            break
        seen.add(len(found))
        number += 1
    assert found.keys() == reference.keys()
    assert number >= 3 * (len(reference) - 1)  # created, opened, renamed
    assert seen >= set(range(1, len(reference)))  # after none, one, two, ... outputs were finished


@pytest.mark.parametrize("size", [0, 1, 100, 352, 1000])
def test_killed_in_the_midst_of_writing_it_leaves_whole_files(place, size):
    folder, reference_folder = place("killed"), place("reference")
    segment_into(reference_folder)

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel then kills at this byte of a file
        with file_limit(size):
            segment_into(folder)

    assert killed(folder, work)
    assert_whole(outputs(folder), outputs(reference_folder))


@pytest.mark.parametrize("moment", [0, 2])
def test_the_command_killed_leaves_nothing_under_the_final_name(make_bundle, ct, tmp_path, moment):
    code = (
        "import os, signal, sys\n"
        "out, left = sys.argv.pop(), [int(sys.argv.pop())]\n"
        "def hook(event, arguments):\n"
        "    if event in ('open', 'os.rename') and '_seg.nii.gz' in str(arguments[0]):\n"
        "        if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        left[0] -= 1\n"
        "sys.addaudithook(hook)\n"
        "from gcis_runtime.cli.run import main\n"
        "main()\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", code, ct, "--bundle", make_bundle(), "--engine", "onnx", "-o", out]
    done = subprocess.run([*map(str, command), str(moment), str(out)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert outputs(out) == {}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("size", [0, 100, 400])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, suffix, size):
    with threshold_segmenter(spacing=None, orientation=None) as segmenter:
        noise = np.random.default_rng(0).integers(-900, 900, (24, 24, 24)).astype(np.int16)
        result = segmenter.segment(noise, affine=np.eye(4))
    with file_limit(size), pytest.raises(OutputError, match="cannot be written"):
        result.save(tmp_path / f"seg{suffix}")
    assert list(tmp_path.iterdir()) == []
    result.save(tmp_path / f"seg{suffix}")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("size", [100, 1500])
def test_a_disk_that_fills_up_during_the_command(make_bundle, place, size):
    folder, bundle = place("images"), make_bundle()
    arguments = [
        str(folder / "ct.nii.gz"),
        "--bundle",
        str(bundle),
        "--engine",
        "onnx",
        "--preview",
        "--masks",
    ]
    with file_limit(size):
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr and "Traceback" not in result.stderr
    found = outputs(folder)
    assert not [p for p in folder.rglob("*") if p.name.startswith(".")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert_whole(found, outputs(folder))


ENDED = """
import os, signal, time
from pathlib import Path
from gcis_runtime.system.atomic_files import replacing_folder
from gcis_runtime.system.console import command

@command("gcis-test")
def main():
    with replacing_folder(Path("bundle.gcis")) as folder:
        (folder / "model.onnx").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

main()
"""


def test_a_command_that_is_told_to_end_leaves_no_temporary_folder(tmp_path: Path) -> None:
    """SIGTERM is sent by `timeout`, schedulers and containers."""
    child = subprocess.run(
        [sys.executable, "-c", ENDED], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (child.returncode, child.stderr.strip()) == (130, "gcis-test: interrupted")
    assert not list(tmp_path.iterdir())
